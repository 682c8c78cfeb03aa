//! Values that may have failed to load.

use std::error::Error;

/// A value of type `T`, such as a batch or a model, or the result of loading one.
pub trait Loaded<T> {
    /// The value.
    ///
    /// # Errors
    ///
    /// The loader's own, if loading it failed.
    fn loaded(self) -> Result<T, Box<dyn Error + Send + Sync>>;
}

impl<T> Loaded<T> for T {
    fn loaded(self) -> Result<T, Box<dyn Error + Send + Sync>> {
        Ok(self)
    }
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Loaded<T> for Result<T, E> {
    fn loaded(self) -> Result<T, Box<dyn Error + Send + Sync>> {
        self.map_err(Into::into)
    }
}
