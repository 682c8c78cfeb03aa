//! The geometry of networks: a picture and a few sentences for each file of points.

mod contours;
mod lines;
mod path;
mod plane;
mod rays;

use std::path::Path;

use super::axes::short;
use super::page::Section;
use super::picture::Drawing;
use super::{Files, draw};
use crate::Failure;
use crate::landscape::{
    BatchNormStatistics, CurveGeometry, Geometry, LineGeometry, PlaneGeometry, PointsFile,
    RaysGeometry,
};
use crate::output::plural;
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
        files: &mut Files,
    ) -> Result<Option<Section>, Failure> {
        match self {
            Self::Plane => of_file(folder, files, |file: &PointsFile<PlaneGeometry>| {
                let caption = "Train loss and test error on the plane, by L2 distance of the weights. Levels are closer to each other \
                               towards the least value, and end at that of guessing.";
                Ok(PlanePicture::of(file)?.map(|picture| Shown {
                    title: "The plane through the networks",
                    caption: caption.to_owned(),
                    sentences: picture.sentences(),
                    picture,
                }))
            }),
            Self::Rays => of_file(folder, files, |file: &PointsFile<RaysGeometry>| {
                let picture = RaysPicture::of(file);
                let directions = plural(file.settings().directions, "random direction");
                Ok(Some(Shown {
                    title: "The width of the optima",
                    caption: format!(
                        "Test error and train loss along {directions} from each network, the same for all; the thick lines are means."
                    ),
                    sentences: picture.sentences(),
                    picture,
                }))
            }),
            Self::Line => of_file(folder, files, |file: &PointsFile<LineGeometry>| {
                let (picture, sentences) = PathPicture::of_line(file);
                Ok(Some(Shown {
                    title: "The line between two networks",
                    caption: "Test error and train loss on the line.".to_owned(),
                    sentences,
                    picture,
                }))
            }),
            Self::Curve => of_file(folder, files, |file: &PointsFile<CurveGeometry>| {
                let settings = file.settings();
                let caption = format!(
                    "Test error and train loss on a curve with {}, trained for {} from a learning rate of {}, and on the straight line.",
                    plural(settings.bends, "bend"),
                    plural(settings.epochs, "epoch"),
                    short(&settings.lr),
                );
                Ok(
                    PathPicture::of_curve(file).map(|(picture, sentences)| Shown {
                        title: "A curve between two networks",
                        caption,
                        sentences,
                        picture,
                    }),
                )
            }),
        }
    }
}

/// A picture of a file's points, and what a section says about it.
struct Shown<P> {
    title: &'static str,
    caption: String,
    sentences: Vec<String>,
    picture: P,
}

/// The section of a file of points, if there is one and enough is known of it.
fn of_file<G: Geometry, P: Drawing>(
    folder: &Path,
    files: &mut Files,
    shown: impl FnOnce(&PointsFile<G>) -> Result<Option<Shown<P>>, Failure>,
) -> Result<Option<Section>, Failure> {
    let Some(file) = PointsFile::<G>::read(folder)? else {
        return Ok(None);
    };
    let Some(shown) = shown(&file)? else {
        return Ok(None);
    };
    let name = G::FILE.trim_end_matches(".json").to_owned();
    Ok(Some(Section {
        title: shown.title,
        figure: draw(&shown.picture, name, files)?,
        caption: format!("{} {}", shown.caption, on_what(&file)),
        sentences: shown.sentences,
        command: file.command().to_owned(),
        version: file.version().to_owned(),
    }))
}

/// The images that the points of a file were scored on, and the number of points without scores.
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
                "The least train loss of the grid so far is 0.500, at a distance of 0.00 from SWA.",
                "The least test error (%) of the grid so far is 30.5, at a distance of 0.00 from SWA.",
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

    /// The sentences about a file with these points, the settings and what is known in JSON.
    fn sentences(
        kind: Kind,
        file: &str,
        settings: &str,
        known: &str,
        points: &[String],
    ) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let plane = plane_json();
        let (head, _) = plane.split_once("\"points\":[").unwrap();
        let head = head.replace(r#""settings":{"points":3,"margin":0.5}"#, settings);
        let (before, rest) = head.split_once(r#""known":"#).unwrap();
        let (_, after) = rest.split_once(r#","origin":"#).unwrap();
        let points = points.join(",");
        let text = format!(r#"{before}"known":{known},"origin":{after}"points":[{points}]}}"#);
        fs::write(folder.path().join(file), text).unwrap();
        let section = kind.section(folder.path(), &mut Files::new());
        section.unwrap().unwrap().sentences
    }

    const SCORES: &str =
        r#"{"train_loss":0.5,"train_accuracy":60.0,"test_loss":1.5,"test_accuracy":70.0}"#;

    #[test]
    fn nothing_is_concluded_from_points_that_are_not_scored() {
        let point = |at: &str, scores: &str| format!(r#"{{{at},"scores":{scores}}}"#);
        let settings = r#""settings":{"points":3}"#;
        let on_line = |last: &str| {
            let t = |t: f64, scores: &str| point(&format!(r#""t":{t:?}"#), scores);
            [t(0.0, SCORES), t(0.5, SCORES), t(1.0, last)]
        };
        assert_eq!(
            sentences(Kind::Line, "line.json", settings, "2.0", &on_line("null")),
            ["The line between SGD and SWA: 1 of 3 points are not scored yet."]
        );
        let whole = sentences(Kind::Line, "line.json", settings, "2.0", &on_line(SCORES));
        assert_eq!(whole.len(), 2, "{whole:?}");
        assert!(whole[0].contains("is 0.000 high"), "{whole:?}");

        let settings = r#""settings":{"points":2,"bends":1,"shape":"Bezier","epochs":3,"lr":0.1,"weight_decay":0.0,"batch_size":32,"seed":1}"#;
        let known = r#"{"distances":[3.0],"distance":2.0}"#;
        let on = |way: &str, scores: &str| {
            let at = |t: f64| format!(r#""way":"{way}","t":{t:?}"#);
            [point(&at(0.0), SCORES), point(&at(1.0), scores)]
        };
        let points = [on("curve", SCORES), on("line", "null")].concat();
        assert_eq!(
            sentences(Kind::Curve, "curve.json", settings, known, &points),
            [
                "straight line: 1 of 2 points are not scored yet.",
                "test error (%), curve: 30.000 to 30.000, mean 30.000 over t and 30.000 over its length of 3.00.",
                "train loss, curve: 0.500 to 0.500, mean 0.500 over t and 0.500 over its length of 3.00.",
            ]
        );

        let settings =
            r#""settings":{"points":3,"directions":1,"radius":2.0,"filter_normalised":false}"#;
        let ray = |network: usize, last: &str| {
            let at = |t: f64| format!(r#""network":{network},"direction":0,"t":{t:?}"#);
            [
                point(&at(-2.0), SCORES),
                point(&at(0.0), SCORES),
                point(&at(2.0), last),
            ]
        };
        let points = [ray(0, SCORES), ray(1, "null")].concat();
        assert_eq!(
            sentences(Kind::Rays, "rays.json", settings, "[1.0,1.0]", &points),
            [
                "SGD: the test error reaches 50 % on none of the directions.",
                "SWA: 1 of 3 points are not scored yet.",
            ]
        );
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
