//! Parts of a report about further pictures, and their sections.

use serde::Serialize;

use super::page::Figure;

/// A part of a report, which has a section for each picture.
#[derive(Serialize)]
pub(crate) struct Part {
    pub(crate) title: &'static str,
    pub(crate) sections: Vec<Section>,
}

/// A picture with what it shows.
#[derive(Serialize)]
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) figure: Figure,
    /// What the picture shows, and on what.
    pub(crate) caption: String,
    /// The numbers that it is about, each in a sentence.
    pub(crate) sentences: Vec<String>,
    /// The command that scored the first of its points.
    pub(crate) command: String,
    /// The version of the program that did.
    pub(crate) version: String,
}
