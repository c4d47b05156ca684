//! The site's small, strongly consistent store of resources
