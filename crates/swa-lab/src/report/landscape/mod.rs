//! The geometry of networks: a picture and a few sentences for each file of points.

mod contours;
mod lines;
mod path;
mod plane;
mod rays;

use std::path::Path;

use super::axes::short;
use super::draw;
use super::page::Figure;
use super::section::Section;
use super::wording::plural;
use crate::Failure;
use crate::landscape::{
    BatchNormStatistics, CurveGeometry, Geometry, LineGeometry, PlaneGeometry, PointsFile,
    RaysGeometry,
};
use path::PathPicture;
use plane::PlanePicture;
use rays::RaysPicture;

pub use contours::contour_levels;

/// A kind of picture, with a file of points of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `plane.json`.
    Plane,
    /// `rays.json`.
    Rays,
    /// `line.json`.
    Line,
    /// `curve.json`.
    Curve,
}

impl Kind {
    /// All kinds, in the order of a report.
    pub(crate) const ALL: [Self; 4] = [Self::Plane, Self::Rays, Self::Line, Self::Curve];

    /// The section of the file of points in `folder`, if there is one, with its picture in `files`.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or the picture not be drawn.
    pub(crate) fn section(
        self,
        folder: &Path,
        files: &mut Vec<(String, Vec<u8>)>,
    ) -> Result<Option<Section>, Failure> {
        match self {
            Self::Plane => plane_section(folder, files),
            Self::Rays => rays_section(folder, files),
            Self::Line => line_section(folder, files),
            Self::Curve => curve_section(folder, files),
        }
    }
}

fn plane_section(
    folder: &Path,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<Section>, Failure> {
    let Some(file) = PointsFile::<PlaneGeometry>::read(folder)? else {
        return Ok(None);
    };
    let Some(picture) = PlanePicture::of(&file)? else {
        return Ok(None);
    };
    let svg = draw(&picture, "plane", files)?;
    let caption = "Train loss and test error on the plane, by L2 distance of the weights. Levels are closer to each other towards the \
                   least value, and end at that of guessing.";
    let title = "The plane through the networks";
    Ok(Some(section(
        &file,
        title,
        &svg,
        caption,
        picture.sentences(),
    )))
}

fn rays_section(
    folder: &Path,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<Section>, Failure> {
    let Some(file) = PointsFile::<RaysGeometry>::read(folder)? else {
        return Ok(None);
    };
    let picture = RaysPicture::of(&file);
    let svg = draw(&picture, "rays", files)?;
    let caption = format!(
        "Test error and train loss along {} from each network, the same for all; the thick lines are means.",
        plural(file.settings().directions, "random direction")
    );
    let title = "The width of the optima";
    Ok(Some(section(
        &file,
        title,
        &svg,
        &caption,
        picture.sentences(),
    )))
}

fn line_section(
    folder: &Path,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<Section>, Failure> {
    let Some(file) = PointsFile::<LineGeometry>::read(folder)? else {
        return Ok(None);
    };
    let picture = PathPicture::of_line(&file);
    let svg = draw(&picture, "line", files)?;
    let caption = "Test error and train loss on the line.";
    let title = "The line between two networks";
    Ok(Some(section(
        &file,
        title,
        &svg,
        caption,
        picture.sentences(),
    )))
}

fn curve_section(
    folder: &Path,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<Option<Section>, Failure> {
    let Some(file) = PointsFile::<CurveGeometry>::read(folder)? else {
        return Ok(None);
    };
    let Some(picture) = PathPicture::of_curve(&file) else {
        return Ok(None);
    };
    let svg = draw(&picture, "curve", files)?;
    let settings = file.settings();
    let caption = format!(
        "Test error and train loss on a curve with {}, trained for {} from a learning rate of {}, and on the straight line.",
        plural(settings.bends, "bend"),
        plural(settings.epochs, "epoch"),
        short(&settings.lr),
    );
    let title = "A curve between two networks";
    Ok(Some(section(
        &file,
        title,
        &svg,
        &caption,
        picture.sentences(),
    )))
}

fn section<G: Geometry>(
    file: &PointsFile<G>,
    title: &'static str,
    svg: &str,
    caption: &str,
    sentences: Vec<String>,
) -> Section {
    Section {
        title,
        figure: Figure::of(svg, false, false),
        caption: format!("{caption} {}", on_what(file)),
        sentences,
        command: file.command().to_owned(),
        version: file.version().to_owned(),
    }
}

/// What the points of a file were scored on, and how many have no scores.
fn on_what<G: Geometry>(file: &PointsFile<G>) -> String {
    let scoring = file.scoring();
    let [train, test] = scoring.images.counts();
    let batch_norm = match scoring.batch_norm {
        BatchNormStatistics::Reestimated { batches: None, .. } => {
            "BatchNorm re-estimated at each point from these training images".to_owned()
        }
        BatchNormStatistics::Reestimated {
            batches: Some(batches),
            batch_size,
        } => format!("BatchNorm re-estimated at each point from {batches} batches of {batch_size}"),
        BatchNormStatistics::Kept => "BatchNorm's statistics left as they are".to_owned(),
    };
    let mut text = format!("On {train} training and {test} test images, {batch_norm}.");
    if file.left() > 0 {
        text += &format!(
            " {} of {} points are not scored yet.",
            file.left(),
            file.points.len()
        );
    }
    if file.gaps() > 0 {
        text += &format!(
            " {} of {} points are gaps: the loss there is no number.",
            file.gaps(),
            file.points.len()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::landscape::plane_json;

    #[test]
    fn a_plane_says_its_best_points_and_counts_its_gaps() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("plane.json"), plane_json()).unwrap();
        let mut files = Vec::new();
        let section = Kind::Plane.section(folder.path(), &mut files);
        let section = section.unwrap().unwrap();
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["plane.svg", "plane.png"]);
        // The least loss is 0.5 at (1, 0), where SWA is; errors are 30 + loss.
        assert_eq!(
            section.sentences,
            [
                "SGD: train loss 0.5000, test error 30.50 %.",
                "SWA: train loss 0.5000, test error 30.50 %.",
                "The least train loss of the grid is 0.500, at a distance of 0.00 from SWA.",
                "The least test error (%) of the grid is 30.5, at a distance of 0.00 from SWA.",
            ]
        );
        for part in [
            "On 20 training and 10 test images, BatchNorm's statistics left as they are.",
            "1 of 9 points are not scored yet.",
            "1 of 9 points are gaps",
        ] {
            assert!(section.caption.contains(part), "{}", section.caption);
        }
    }

    #[test]
    fn a_folder_without_points_has_no_section() {
        let folder = tempfile::tempdir().unwrap();
        for kind in Kind::ALL {
            let section = kind.section(folder.path(), &mut Vec::new()).unwrap();
            assert!(section.is_none(), "{kind:?}");
        }
    }

    #[test]
    fn a_plane_whose_coordinates_are_no_grid_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = plane_json().replace("\"x\":2.0", "\"x\":1.0");
        fs::write(folder.path().join("plane.json"), text).unwrap();
        let section = Kind::Plane.section(folder.path(), &mut Vec::new());
        let message = section.err().unwrap().to_string();
        assert_eq!(
            message,
            "plane.json holds no grid: its coordinates do not rise"
        );
    }
}
