//! Objects: gateway, block store and repair
