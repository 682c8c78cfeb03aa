//! Workarounds for Burn 0.22.1.
//!
//! The derived `Module` of an enum puts the variant's name into every parameter's path, and so into every record. For enums
//! without the variant in the path, the `Module` is written by hand: [`transparent_module`].
