//! The images of a run, loaded with progress on the screen.

use std::sync::{Mutex, PoisonError};

use crate::Failure;
use crate::data::{DataSource, ImageSet};
use crate::output::say;
use crate::run::progress::Progress;

/// Loads what `--data` names, and shows how far it is, and what there is to note about it.
///
/// # Errors
///
/// [`DataError`](crate::data::DataError), of one line.
pub fn load_images(data: &str, progress: &mut Progress) -> Result<ImageSet, Failure> {
    let source: DataSource = data.parse()?;
    progress.begin("loading", 0);
    let shown = Mutex::new(progress.clone());
    let images = source.load(&|done, total| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.set_total(total);
        shown.set(done);
    });
    progress.end();
    let images = images?;
    images.notes.iter().for_each(say);
    Ok(images)
}
