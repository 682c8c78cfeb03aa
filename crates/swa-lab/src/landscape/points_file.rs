//! The file of a picture's points and their scores.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::networks::NetworkRecord;
use super::scoring::{PointScores, ScoringRecord};
use crate::Failure;
use crate::provenance::Origin;
use crate::run::directory::{DirectoryError, read_json, write_whole};

/// A kind of picture, by the settings of its points.
pub trait Geometry: Serialize + DeserializeOwned {
    /// The coordinates of a point.
    type At: Serialize + DeserializeOwned + Copy;
    /// Further knowledge of the networks and the points, beside their scores.
    type Known: Serialize + DeserializeOwned;

    /// The name of the file.
    const FILE: &'static str;
    /// Its content in words.
    const CONTENT: &'static str;

    /// The number of points, for so many networks; 0 if the settings are of no picture.
    fn count(&self, networks: usize) -> usize;

    /// The number of networks that `known` is about must be this one.
    fn is_known_of(known: &Self::Known, networks: usize) -> bool;
}

/// A file of points and their scores: `plane.json`, `rays.json`, `line.json` or `curve.json`.
///
/// It is written as a whole whenever a point is scored, so that a process that is killed loses one point.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct PointsFile<G: Geometry> {
    #[serde(flatten)]
    head: Head<G>,
    /// The points, in the order of the geometry's.
    pub points: Vec<PointRecord<G::At>>,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    was_there: bool,
}

/// All but the points.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
struct Head<G: Geometry> {
    networks: Vec<NetworkRecord>,
    scoring: ScoringRecord,
    settings: G,
    known: Option<G::Known>,
    origin: Origin,
}

/// A point.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PointRecord<A> {
    /// Its coordinates.
    #[serde(flatten)]
    pub at: A,
    /// Its scores, once it has them.
    pub scores: Option<PointScores>,
}

/// The networks and images that the points of a new file are scored of and on.
pub(super) struct Asked<'a, G: Geometry> {
    pub(super) networks: Vec<NetworkRecord>,
    pub(super) scoring: &'a ScoringRecord,
    pub(super) settings: G,
    /// The coordinates of all points.
    pub(super) points: Vec<G::At>,
    pub(super) device: &'a str,
    /// A file in its place that is of something else is replaced.
    pub(super) overwrite: bool,
}

impl<G: Geometry> PointsFile<G> {
    /// The file in `folder` that is asked for: that which is there, or a new one.
    ///
    /// # Errors
    ///
    /// If the file that is there is of other networks, images or settings.
    pub(super) fn open(folder: &Path, asked: Asked<'_, G>) -> Result<Self, Failure> {
        let new = Self {
            path: folder.join(G::FILE),
            was_there: false,
            head: Head {
                networks: asked.networks,
                scoring: asked.scoring.clone(),
                settings: asked.settings,
                known: None,
                origin: Origin::of_this_command(asked.device),
            },
            points: asked
                .points
                .into_iter()
                .map(|at| PointRecord { at, scores: None })
                .collect(),
        };
        if asked.overwrite {
            return Ok(new);
        }
        let Some(there) = Self::read(folder)? else {
            return Ok(new);
        };
        match new.difference(&there)? {
            None => Ok(there),
            Some(difference) => Err(format!(
                "{} {difference}: choose another folder with --out, or replace it with --overwrite",
                there.path.display()
            )
            .into()),
        }
    }

    /// The file in `folder`, if there is one.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or holds something else.
    pub fn read(folder: &Path) -> Result<Option<Self>, Failure> {
        let path = folder.join(G::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let mut file: Self = read_json(&path, G::CONTENT).map_err(|error| match error {
            DirectoryError::Content { path, reason, .. } => Failure::from(format!(
                "{} does not hold {} ({reason}): replace it with `cifar landscape … --overwrite`, or move it elsewhere",
                path.display(),
                G::CONTENT
            )),
            error => error.into(),
        })?;
        let (points, networks) = (file.points.len(), file.networks().len());
        let known = file.known();
        if points == 0
            || points != file.settings().count(networks)
            || known.is_some_and(|known| !G::is_known_of(known, networks))
        {
            return Err(format!(
                "{} has lost a part: it has {points} points of {networks} networks, and its settings are of another number. Replace \
                 it with `cifar landscape … --overwrite`, or move it elsewhere",
                path.display()
            )
            .into());
        }
        file.path = path;
        file.was_there = true;
        Ok(Some(file))
    }

    /// The first difference from the file that is `there`, in words.
    fn difference(&self, there: &Self) -> Result<Option<String>, Failure> {
        let checksums =
            |file: &Self| -> Vec<u32> { file.networks().iter().map(|it| it.checksum).collect() };
        if checksums(self) != checksums(there) {
            return Ok(Some(format!(
                "is of {}, and given are {}",
                listed(there.networks()),
                listed(self.networks())
            )));
        }
        let images = &there.head.scoring.images;
        if let Some(difference) = self.head.scoring.images.difference(images) {
            return Ok(Some(format!("was made with other images: {difference}")));
        }
        let [here, before] = [self, there].map(|file| serde_json::to_value(&file.head.settings));
        if let (Value::Object(here), Value::Object(before)) = (here?, before?)
            && let Some((name, value)) = here
                .iter()
                .find(|(key, value)| before.get(*key) != Some(value))
        {
            let before = before.get(name).unwrap_or(&Value::Null);
            let name = name.replace('_', " ");
            return Ok(Some(format!(
                "was made with other settings: {name} is {value} here and {before} there"
            )));
        }
        let [here, before] = [self, there].map(|file| file.head.scoring.batch_norm);
        if here == before {
            return Ok(None);
        }
        Ok(Some(format!(
            "was made with other statistics of BatchNorm: {} here and {} there",
            serde_json::to_string(&here)?,
            serde_json::to_string(&before)?,
        )))
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// If it cannot be written; what was there stays.
    pub(super) fn write(&self) -> Result<(), Failure> {
        let Head { settings, .. } = &self.head;
        debug_assert_eq!(self.points.len(), settings.count(self.networks().len()));
        let head = serde_json::to_string_pretty(&self.head)?;
        let mut text = head.trim_end_matches("\n}").to_owned();
        // A line a point, so that one reads and compares them.
        text += ",\n  \"points\": [\n";
        for (index, point) in self.points.iter().enumerate() {
            let end = if index + 1 < self.points.len() {
                ","
            } else {
                ""
            };
            let _ = writeln!(text, "    {}{end}", serde_json::to_string(point)?);
        }
        text += "  ]\n}\n";
        Ok(write_whole(&self.path, text.as_bytes())?)
    }

    /// The networks, as they were given.
    pub fn networks(&self) -> &[NetworkRecord] {
        &self.head.networks
    }

    /// The settings of the points.
    pub fn settings(&self) -> &G {
        &self.head.settings
    }

    /// The statistics of BatchNorm, and the images.
    pub fn scoring(&self) -> &ScoringRecord {
        &self.head.scoring
    }

    /// The knowledge beside the scores, once there is some.
    pub fn known(&self) -> Option<&G::Known> {
        self.head.known.as_ref()
    }

    /// Adds what is known beside the scores, and writes the file.
    pub(super) fn learn(&mut self, known: G::Known) -> Result<(), Failure> {
        self.head.known = Some(known);
        self.write()
    }

    /// True if it was read, and not made anew.
    pub(super) fn was_there(&self) -> bool {
        self.was_there
    }

    /// The number of points without scores.
    pub fn left(&self) -> usize {
        let points = self.points.iter();
        points.filter(|point| point.scores.is_none()).count()
    }

    /// The number of gaps: points whose scores are not numbers.
    pub fn gaps(&self) -> usize {
        let scores = self.points.iter().filter_map(|point| point.scores);
        scores
            .filter(|scores| !scores.train_loss.is_finite())
            .count()
    }

    /// The command that began it.
    pub fn command(&self) -> &str {
        &self.head.origin.command
    }

    /// The version of the program that began it.
    pub fn version(&self) -> &str {
        &self.head.origin.version
    }
}

/// The networks by name and file.
fn listed(networks: &[NetworkRecord]) -> String {
    let networks = networks.iter();
    let networks: Vec<String> = networks
        .map(|it| {
            format!(
                "{} ({}, CRC-32 {:08x})",
                it.name,
                it.file.display(),
                it.checksum
            )
        })
        .collect();
    networks.join(" and ")
}

/// `points` if they are enough for a picture: one for each end.
pub(super) fn at_least_two(points: usize) -> usize {
    if points >= 2 { points } else { 0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;
    use crate::hostile_files::survive;
    use crate::landscape::{LineGeometry, PlaneGeometry};

    /// A `plane.json` with 3 x 3 points, of which one is a gap and one is not scored yet.
    pub(crate) fn plane_json() -> String {
        let scores = |loss: f64| {
            format!(
                r#"{{"train_loss":{loss:?},"train_accuracy":60.0,"test_loss":1.5,"test_accuracy":{}}}"#,
                70.0 - loss
            )
        };
        let gap =
            r#"{"train_loss":null,"train_accuracy":null,"test_loss":null,"test_accuracy":null}"#;
        let mut points = Vec::new();
        for (index, loss) in [1.0, 1.25, 1.5, 0.5, 0.75, 1.0, 2.0, 0.0, 3.0]
            .into_iter()
            .enumerate()
        {
            let (x, y) = ((index / 3) as f64, (index % 3) as f64 / 3.0);
            let scores = match index {
                1 => gap.to_owned(),
                7 => "null".to_owned(),
                _ => scores(loss),
            };
            points.push(format!(r#"{{"x":{x:?},"y":{y:?},"scores":{scores}}}"#));
        }
        let network = |name: &str| {
            format!(
                r#"{{"name":"{name}","file":"{name}.safetensors","checksum":7,"model":"preresnet-8"}}"#
            )
        };
        let placed = |x: f64| {
            let scores = scores(0.5);
            format!(r#"{{"at":{{"x":{x:?},"y":0.0}},"distance":0.0,"scores":{scores}}}"#)
        };
        format!(
            r#"{{"networks":[{},{}],"scoring":{{"images":{{"train":20,"scored":10,"class_names":["a","b"],"checksum":1}},
            "batch_norm":"kept"}},"settings":{{"points":3,"margin":0.5}},"known":[{},{}],"origin":{{"command":"cifar landscape plane",
            "version":"1","burn_version":"2","device":"flex","machine":"m","started":"s"}},"points":[{}]}}"#,
            network("SGD"),
            network("SWA"),
            placed(0.0),
            placed(1.0),
            points.join(",")
        )
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plane.json");
        fs::write(&path, plane_json()).unwrap();
        let file = PointsFile::<PlaneGeometry>::read(folder.path())
            .unwrap()
            .unwrap();
        assert_eq!((file.points.len(), file.left(), file.gaps()), (9, 1, 1));
        assert_eq!(file.points[3].at.y, 0.0);
        // 1/3 and 2/3 are read to the last bit.
        assert_eq!(file.points[5].at.y, 2.0 / 3.0);
        file.write().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let line = r#"    {"x":1.0,"y":0.0,"scores":{"train_loss":0.5,"train_accuracy":60.0,"test_loss":1.5,"test_accuracy":69.5}},"#;
        assert!(text.contains(line), "{text}");
        let again = PointsFile::<PlaneGeometry>::read(folder.path())
            .unwrap()
            .unwrap();
        again.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn no_file_is_none_and_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            PointsFile::<LineGeometry>::read(folder.path())
                .unwrap()
                .is_none()
        );
        let message = |text: &str| {
            fs::write(folder.path().join("plane.json"), text).unwrap();
            let read = PointsFile::<PlaneGeometry>::read(folder.path());
            read.err().unwrap().to_string()
        };
        let whole = plane_json();
        let fewer = message(&whole.replace(r#""points":3"#, r#""points":4"#));
        assert!(
            fewer.contains("has lost a part: it has 9 points of 2 networks"),
            "{fewer}"
        );
        let none = message(&whole.replace(r#""margin":0.5"#, r#""margins":0.5"#));
        assert!(
            none.contains("does not hold the points of a plane (missing field `margin`"),
            "{none}"
        );
    }

    #[test]
    fn damaged_files_are_refused_or_read_in_bounded_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plane.json");
        fs::write(&path, plane_json()).unwrap();
        survive("points", &[path], 64, |path| {
            let folder = path.parent().unwrap();
            let read = PointsFile::<PlaneGeometry>::read(folder);
            read.map(drop).map_err(|error| error.to_string())
        });
    }
}
