//! Keys and paths: `prefix` + the path below a folder, with `/` between names.
//!
//! Law: `path_of(prefix, key_of(prefix, path)) == path`; every path made here stays below its folder.

use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

/// The key of a file, from its path below the folder that is uploaded.
///
/// # Errors
/// When a name is not UTF-8 or the path isn't a plain relative one.
pub fn key_of(prefix: &str, relative: &Path) -> Result<String> {
    let mut key = prefix.to_owned();
    for (index, component) in relative.components().enumerate() {
        let name = match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        };
        if index > 0 {
            key.push('/');
        }
        key.push_str(name.ok_or_else(|| Error::Name(relative.to_owned()))?);
    }
    Ok(key)
}

/// The path of an object below the target folder; `None` for markers of folders (keys that end with `/`).
///
/// # Errors
/// When the key would leave the folder or has no name there.
pub fn path_of(prefix: &str, key: &str) -> Result<Option<PathBuf>> {
    let refuse = |reason| Error::OutsideFolder {
        key: key.to_owned(),
        reason,
    };
    let rest = key
        .strip_prefix(prefix)
        .ok_or_else(|| refuse("it has another prefix"))?;
    if rest.is_empty() || rest.ends_with('/') {
        return Ok(None);
    }
    let mut path = PathBuf::new();
    for segment in rest.split('/') {
        match segment {
            "" => return Err(refuse("it has an empty segment")),
            "." | ".." => return Err(refuse("it has a segment \".\" or \"..\"")),
            _ if segment.contains('\0') => return Err(refuse("it has a zero byte")),
            _ => path.push(segment),
        }
    }
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (prefix, path) in [("", "a"), ("p/", "a/b c/ü"), ("p", "x"), ("p/", "a\\b")] {
            let key = key_of(prefix, Path::new(path)).unwrap();
            assert_eq!(path_of(prefix, &key).unwrap().unwrap(), Path::new(path));
        }
        assert_eq!(key_of("p/", Path::new("a/b")).unwrap(), "p/a/b");
        assert!(key_of("", Path::new("../a")).is_err());
    }

    #[test]
    fn nothing_leaves_the_folder() {
        for key in [
            "../a",
            "a/../../b",
            "/etc/passwd",
            "a//b",
            "a/./b",
            "..",
            "a\0b",
        ] {
            let error = path_of("", key).unwrap_err();
            assert!(
                matches!(error, Error::OutsideFolder { .. }),
                "{key}: {error}"
            );
        }
        assert!(path_of("p/", "p//etc").is_err());
        assert!(path_of("p/", "q/a").is_err());
        assert_eq!(path_of("p/", "p/a/").unwrap(), None);
        assert_eq!(path_of("p/", "p/").unwrap(), None);
    }
}
