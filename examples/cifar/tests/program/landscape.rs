//! `cifar landscape`: points, pictures, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{CIFAR, Ended, Process, cifar};
use crate::small_run::{SmallRun, train};
use crate::snapshot::Snapshot;

/// Runs of SWA and of SGD from one beginning, and a folder for the pictures.
struct Runs {
    _folder: TempDir,
    swa: PathBuf,
    sgd: PathBuf,
    out: PathBuf,
}

impl Runs {
    fn new() -> Self {
        static RUNS: std::sync::OnceLock<Snapshot> = std::sync::OnceLock::new();
        let runs = RUNS.get_or_init(|| {
            let folder = tempfile::tempdir().unwrap();
            let swa = &SmallRun::PreResNet.uninterrupted().folder;
            swa.write_to(&folder.path().join("swa"));
            let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --batch-size 32 --epochs 6 --method sgd";
            let settings: Vec<&str> = settings.split(' ').collect();
            train(&settings, &folder.path().join("sgd")).end().success();
            Snapshot::of(folder.path())
        });
        let folder = tempfile::tempdir().unwrap();
        runs.write_to(folder.path());
        let [swa, sgd, out] = ["swa", "sgd", "out"].map(|name| folder.path().join(name));
        Self {
            _folder: folder,
            swa,
            sgd,
            out,
        }
    }

    /// The live network of SWA's run.
    fn live(&self) -> PathBuf {
        self.swa.join("live.safetensors")
    }

    /// A picture of some networks on 100 images.
    fn command(&self, picture: &str, networks: &[&Path], more: &str) -> Command {
        let mut command = Command::new(CIFAR);
        let mut words = picture.split(' ');
        command.arg("landscape").args(words.next()).args(networks);
        command.args(words).args(["--items", "100", "--out"]);
        command.arg(&self.out);
        command.args(more.split(' ').filter(|word| !word.is_empty()));
        command
    }

    fn draw(&self, picture: &str, networks: &[&Path], more: &str) -> Ended {
        Process::start(&mut self.command(picture, networks, more)).end()
    }

    fn json(&self, name: &str) -> Value {
        let text = fs::read(self.out.join(name)).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn has_pictures(&self, name: &str) {
        for end in ["svg", "png"] {
            let file = self.out.join(format!("{name}.{end}"));
            let length = fs::metadata(&file).map_or(0, |it| it.len());
            assert!(length > 1000, "{}: {length} bytes", file.display());
        }
    }
}

/// The points, each with its scores.
fn points(json: &Value) -> &Vec<Value> {
    let points = json["points"].as_array().unwrap();
    assert!(points.iter().all(|point| point["scores"].is_object()));
    points
}

/// The accuracy on all test images that `cifar evaluate` finds, in hundredths of a per cent.
fn evaluated(file: &Path) -> f64 {
    let output = cifar(["evaluate", "--model-file", file.to_str().unwrap()]).success();
    let last = output.lines().last().unwrap();
    last.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_plane_has_the_networks_their_scores_and_a_picture() {
    let runs = Runs::new();
    let (sgd, swa, live) = (&runs.sgd, &runs.swa, runs.live());
    let output = runs
        .draw("plane", &[sgd, swa, &live], "--points 3")
        .success();
    let json = runs.json("plane.json");
    let names = json["networks"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["SGD", "SWA", "live network of SWA"]);
    // The two that are farthest apart are on the axis, and the third is above the line between them.
    let known = json["known"].as_array().unwrap();
    let at = |axis: &str| {
        known
            .iter()
            .map(|it| it["at"][axis].as_f64().unwrap())
            .collect()
    };
    let (x, y): (Vec<f64>, Vec<f64>) = (at("x"), at("y"));
    let largest = |axis: &[f64]| axis.iter().copied().fold(0.0, f64::max);
    assert!(
        x.iter().all(|at| (0.0..=largest(&x)).contains(at)),
        "{known:?}"
    );
    assert_eq!(y.iter().filter(|y| **y == 0.0).count(), 2, "{known:?}");
    assert!(
        x.contains(&0.0) && largest(&x) > 0.0 && largest(&y) > 0.0,
        "{known:?}"
    );
    assert_eq!(points(&json).len(), 9);
    // From -0.2 to 1.2 of the networks' distances.
    let corner = json["points"][8]["x"].as_f64().unwrap();
    assert!((corner - 1.2 * largest(&x)).abs() < 1e-9);
    runs.has_pictures("plane");
    assert!(
        output.contains(
            "plane: 9 points of SGD, SWA, live network of SWA on 100 training and 100 test images"
        ),
        "{output}"
    );
    assert!(output.contains("  SWA: train loss "), "{output}");
}

#[test]
fn a_line_ends_at_the_networks_as_they_are_evaluated() {
    let runs = Runs::new();
    // All images, and BatchNorm as it is: what `cifar evaluate` does.
    let mut command = Command::new(CIFAR);
    command
        .args(["landscape", "line"])
        .args([&runs.sgd, &runs.live()]);
    command
        .args(["--points", "3", "--keep-batch-norm", "--out"])
        .arg(&runs.out);
    Process::start(&mut command).end().success();
    let json = runs.json("line.json");
    let accuracy = |place: usize| {
        points(&json)[place]["scores"]["test_accuracy"]
            .as_f64()
            .unwrap()
    };
    for (place, file) in [(0, runs.sgd.join("live.safetensors")), (2, runs.live())] {
        assert!((accuracy(place) - evaluated(&file)).abs() < 0.006, "{json}");
    }
    runs.has_pictures("line");
}

#[test]
fn rays_are_the_same_for_networks_and_meet_in_the_middle() {
    let runs = Runs::new();
    let more = "--points 3 --directions 2";
    let output = runs.draw("rays", &[&runs.sgd, &runs.swa], more).success();
    let json = runs.json("rays.json");
    let points = points(&json);
    assert_eq!(points.len(), 2 * 2 * 3);
    for network in points.chunks(6) {
        assert_eq!(network[1]["t"], 0.0);
        assert_eq!(network[1]["scores"], network[4]["scores"]);
        assert_ne!(network[0]["scores"], network[3]["scores"]);
    }
    // The largest distance is the length of the first network's weights, in three digits.
    let radius = json["settings"]["radius"].as_f64().unwrap();
    let length = json["known"][0].as_f64().unwrap();
    assert!(
        (radius / length - 1.0).abs() < 0.006,
        "{radius} and {length}"
    );
    // Which has hardly been trained.
    let expected = "SGD: the test error is 89.00 % at the network itself.";
    assert!(output.contains(expected), "{output}");
    runs.has_pictures("rays");
}

#[test]
fn a_curve_killed_anywhere_ends_with_the_same_bits() {
    let runs = Runs::new();
    let networks: [&Path; 2] = [&runs.sgd, &runs.swa];
    let picture = "curve --points 5 --bends 2 --epochs 3";
    runs.draw(picture, &networks, "").success();
    runs.has_pictures("curve");
    let json = runs.json("curve.json");
    assert_eq!(points(&json).len(), 10);
    // The ends of the curve and of the line are the same networks.
    for place in [0, 4] {
        let scores = |point: usize| &json["points"][point]["scores"];
        assert_eq!(scores(place), scores(place + 5));
    }
    assert!(runs.out.join("curve/bend-2.safetensors").is_file());
    let whole = fs::read_to_string(runs.out.join("curve.json")).unwrap();
    let bend = |runs: &Runs| fs::read(runs.out.join("curve/bend-2.safetensors")).unwrap();

    let again = Runs::new();
    let networks: [&Path; 2] = [&again.sgd, &again.swa];
    let checkpoint = again.out.join("curve/checkpoint");
    let mut killed = 0;
    for epoch in 1..4 {
        let mut process = Process::start(&mut again.command(picture, &networks, ""));
        let file = checkpoint.join(format!("model-{epoch}.bpk"));
        if process.runs_until(|| file.is_file()) {
            process.signal("KILL");
        }
        killed += usize::from(process.end().status.is_none());
    }
    // And once amid the points.
    let mut process = Process::start(&mut again.command(picture, &networks, ""));
    let scored = || {
        let text = fs::read_to_string(again.out.join("curve.json")).unwrap_or_default();
        text.matches("train_loss").count()
    };
    if process.runs_until(|| scored() >= 3) {
        process.signal("KILL");
    }
    killed += usize::from(process.end().status.is_none());
    assert!(killed >= 2, "{killed} were killed");
    again.draw(picture, &networks, "").success();
    assert_eq!(bend(&again), bend(&runs));
    let scores = |text: &str| text.split_once("\"points\": [").unwrap().1.to_owned();
    let resumed = fs::read_to_string(again.out.join("curve.json")).unwrap();
    assert_eq!(scores(&resumed), scores(&whole));

    // Without the file that says whose they are, the bends are not taken for these networks'.
    fs::remove_file(again.out.join("curve.json")).unwrap();
    let refusal = again.draw(picture, &networks, "").refusal();
    assert!(
        refusal.contains("holds the training of another curve"),
        "{refusal}"
    );
    let live = again.live();
    let networks: [&Path; 2] = [&again.sgd, &live];
    again.draw(picture, &networks, "--overwrite").success();
    assert_ne!(bend(&again), bend(&runs));
}

#[test]
fn a_new_curve_leaves_no_bend_of_an_old_one() {
    let runs = Runs::new();
    let networks: [&Path; 2] = [&runs.sgd, &runs.swa];
    let draw = |bends: usize, more: &str| {
        let picture = format!("curve --points 2 --epochs 1 --bends {bends}");
        runs.draw(&picture, &networks, more).success();
        let bends = fs::read_dir(runs.out.join("curve")).unwrap();
        let names = bends.map(|bend| bend.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("bend")).count()
    };
    assert_eq!(draw(3, ""), 3);
    assert_eq!(draw(1, "--overwrite"), 1);
}

#[test]
fn files_in_no_runs_folder_have_a_curve_whose_folder_is_no_run() {
    let runs = Runs::new();
    let [first, second] = ["first", "second"].map(|name| {
        let file = runs.out.with_file_name(format!("{name}.safetensors"));
        let from = if name == "first" {
            &runs.swa
        } else {
            &runs.sgd
        };
        fs::copy(from.join("live.safetensors"), &file).unwrap();
        file
    });
    // Their widths are divided.
    let picture = "curve --points 2 --epochs 1 --batch-norm-batches 1";
    runs.draw(picture, &[&first, &second], "").success();
    let folder = runs.out.join("curve");
    let path = folder.to_str().unwrap();
    let bend = folder.join("bend-1.safetensors");
    cifar(["evaluate", "--model-file", bend.to_str().unwrap()]).success();
    for arguments in [
        ["ensemble", path].as_slice(),
        &["train", "--resume", "--out", path],
    ] {
        let error = cifar(arguments.iter().copied()).refusal();
        assert!(
            error.contains("holds the training of a curve, and no run"),
            "{error}"
        );
    }
}

#[test]
fn pictures_of_more_points_than_can_be_kept_are_refused() {
    let runs = Runs::new();
    let networks: [&Path; 2] = [&runs.sgd, &runs.swa];
    for picture in [
        "line --points 99999999999999",
        "plane --points 20000",
        "rays --directions 999999999999",
        "curve --points 99999999999999",
    ] {
        let error = runs.draw(picture, &networks, "").refusal();
        assert!(
            error.contains("a picture has at most 1000000 points, not "),
            "{error}"
        );
    }
    let error = runs
        .draw("curve --bends 99999999999", &networks, "")
        .refusal();
    assert!(
        error.contains("--bends must be at most 100, not 99999999999"),
        "{error}"
    );
}

#[test]
fn runs_that_kept_averages_have_a_curve_and_their_batches() {
    let runs = Runs::new();
    let keeping = runs.out.with_file_name("keeping");
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --batch-size 32 --accumulate 4 --epochs 2 --swa-start 1 \
                    --keep-averages 1";
    let settings: Vec<&str> = settings.split_whitespace().collect();
    train(&settings, &keeping).end().success();
    let picture = "curve --points 2 --epochs 1 --batch-norm-batches 3";
    let networks: [&Path; 2] = [&keeping, &runs.swa];
    runs.draw(picture, &networks, "").success();
    // A quarter of a batch is passed through a network at once.
    let batches = &runs.json("curve.json")["scoring"]["batch_norm"]["reestimated"];
    assert_eq!(
        (&batches["batches"], &batches["batch_size"]),
        (&3.into(), &8.into())
    );
}

#[test]
fn a_network_that_diverged_is_named() {
    let runs = Runs::new();
    let diverged = runs.sgd.with_file_name("diverged");
    Snapshot::of(&runs.sgd).write_to(&diverged);
    let file = diverged.join("live.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    // The first weight of a tensor, in the layout of SafeTensors: the length of the header, the header, the tensors.
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let start = header["conv1.weight"]["data_offsets"][0].as_u64().unwrap();
    let start = 8 + length + usize::try_from(start).unwrap();
    bytes[start..start + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&file, bytes).unwrap();

    let live = runs.live();
    for (picture, networks) in [
        ("rays", [&diverged, &runs.swa].as_slice()),
        ("rays", &[&runs.swa, &diverged]),
        ("line", &[&runs.swa, &diverged]),
        ("plane", &[&runs.sgd, &runs.swa, &live, &diverged]),
    ] {
        let networks: Vec<&Path> = networks.iter().map(|it| it.as_path()).collect();
        let refusal = runs.draw(picture, &networks, "--points 3");
        let refusal = refusal.refusal_with_a_list();
        let expected = format!("({}) holds a NaN or an infinity", file.display());
        assert!(refusal.contains(&expected), "{picture}: {refusal}");
    }
}

#[test]
fn a_picture_that_is_stopped_goes_on_with_the_same_command() {
    let runs = Runs::new();
    let networks: [&Path; 2] = [&runs.sgd, &runs.swa];
    let mut process = Process::start(&mut runs.command("plane", &networks, "--points 8"));
    let file = runs.out.join("plane.json");
    let scored = || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.matches("\"y\":").count() > 3 && text.matches("train_loss").count() > 4
    };
    assert!(process.runs_until(scored));
    process.signal("INT");
    let ended = process.end();
    assert_eq!(ended.status, Some(130), "{ended:?}");
    assert!(ended.errors.contains("Stopping after this point."));
    assert!(
        ended
            .output
            .contains("of 64 points. The same command goes on with them.\n"),
        "{ended:?}"
    );
    let first = |json: &Value| json["points"][0]["scores"].clone();
    let before = first(&runs.json("plane.json"));

    let output = runs.draw("plane", &networks, "--points 8").success();
    assert!(output.contains("scored before) of SGD, SWA"), "{output}");
    let json = runs.json("plane.json");
    assert_eq!(first(&json), before);
    assert_eq!(points(&json).len(), 64);
}

#[test]
fn points_that_are_no_numbers_are_gaps_that_are_counted() {
    let runs = Runs::new();
    // Far out, the weights overflow.
    let more = "--points 3 --directions 1 --radius 1e38";
    let output = runs.draw("rays", &[&runs.sgd], more).success();
    let json = runs.json("rays.json");
    let scores = |place: usize| &json["points"][place]["scores"]["train_loss"];
    assert_eq!([scores(0), scores(2)], [&Value::Null; 2], "{json}");
    assert!(scores(1).is_number());
    runs.has_pictures("rays");
    assert!(output.contains("SGD: "), "{output}");
}

#[test]
fn a_report_shows_the_geometry_that_is_in_its_folder() {
    let runs = Runs::new();
    let small = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../results/small/results.jsonl"
    );
    runs.draw("line", &[&runs.sgd, &runs.swa], "--points 3")
        .success();
    fs::copy(small, runs.out.join("results.jsonl")).unwrap();
    let output = cifar(["report", runs.out.to_str().unwrap()]).success();
    assert!(
        output.contains("The barrier of the train loss between SGD and SWA is"),
        "{output}"
    );
    let page = fs::read_to_string(runs.out.join("report.html")).unwrap();
    assert!(page.contains("<h2>Geometry</h2>"));
    assert!(page.contains("The line between two networks"));
}

#[test]
fn what_is_no_geometry_is_refused_by_name() {
    let runs = Runs::new();
    let (sgd, swa, live) = (runs.sgd.as_path(), runs.swa.as_path(), runs.live());
    let wider = runs.out.with_file_name("wider");
    let settings = "--model preresnet-8 --width-divisor 8 --train-items 200 --batch-size 32 --epochs 2 --method sgd";
    let settings: Vec<&str> = settings.split(' ').collect();
    train(&settings, &wider).end().success();
    let own = sgd.join("live.safetensors");
    for (picture, networks, more, expected) in [
        (
            "line",
            [sgd, wider.as_path()].as_slice(),
            "",
            "is another network than SGD",
        ),
        (
            "plane",
            &[sgd, swa, &wider],
            "",
            "is another network than SGD",
        ),
        ("rays", &[sgd, &wider], "", "is another network than SGD"),
        ("curve", &[sgd, &own], "", "have the same weights"),
        ("plane", &[sgd, swa, swa], "", "from the line through SGD"),
        (
            "plane",
            &[sgd, swa, &live],
            "--points 1",
            "must be at least 2, one for each end, not 1",
        ),
        ("line", &[sgd, swa], "--points 0", "must be at least 2"),
        ("line", &[sgd], "", "expected 2 networks, got 1"),
        ("plane", &[sgd], "", "expected at least 2 networks, got 1"),
        (
            "rays",
            &[sgd],
            "--directions 0",
            "must be at least 1, not 0",
        ),
        (
            "rays",
            &[sgd],
            "--radius -1",
            "must be a finite number above 0, not -1",
        ),
        (
            "curve",
            &[sgd, swa],
            "--bends 0",
            "must be at least 1, the ends not counted",
        ),
        ("curve", &[sgd, swa], "--lr -1 --epochs 1", "--lr must be"),
        ("curve", &[sgd, swa], "--epochs 0", "--epochs must be"),
        (
            "plane",
            &[sgd, swa],
            "--margin -1",
            "must be a finite number from 0 on, not -1",
        ),
    ] {
        let refusal = runs.draw(picture, networks, more).refusal_with_a_list();
        assert!(refusal.contains(expected), "{picture} {more}: {refusal}");
    }
    let nowhere = runs.draw("rays", &[&sgd.join("none")], "").refusal();
    assert!(nowhere.contains("no such run or file"), "{nowhere}");
    // The parameter is named.
    let refusal = runs.draw("line", &[sgd, &wider], "").refusal_with_a_list();
    assert!(refusal.contains("conv1.weight"), "{refusal}");
}

#[test]
fn a_file_of_other_networks_or_settings_is_not_gone_on_with() {
    let runs = Runs::new();
    let (sgd, swa, live) = (runs.sgd.as_path(), runs.swa.as_path(), runs.live());
    runs.draw("line", &[sgd, swa], "--points 3").success();
    let before = fs::read(runs.out.join("line.json")).unwrap();
    let refusal = runs
        .draw("line", &[sgd, &live], "--points 3")
        .refusal_with_a_list();
    for part in [
        "line.json is of SGD (",
        " and SWA (",
        "given are SGD (",
        "live network of SWA (",
        "--overwrite",
    ] {
        assert!(refusal.contains(part), "{part}: {refusal}");
    }
    let refusal = runs.draw("line", &[sgd, swa], "--points 4").refusal();
    assert!(
        refusal.contains("points is 4 here and 3 there"),
        "{refusal}"
    );
    let refusal = runs
        .draw("line", &[sgd, swa], "--points 3 --items 50")
        .errors;
    assert!(
        refusal.contains("cannot be used multiple times"),
        "{refusal}"
    );
    let refusal = runs
        .draw("line", &[sgd, swa], "--points 3 --keep-batch-norm")
        .refusal();
    assert!(
        refusal.contains("other statistics of BatchNorm"),
        "{refusal}"
    );
    assert_eq!(fs::read(runs.out.join("line.json")).unwrap(), before);

    runs.draw("line", &[sgd, swa], "--points 4 --overwrite")
        .success();
    assert_eq!(points(&runs.json("line.json")).len(), 4);

    // What is no such file is said to be so, and is left as it is.
    let file = runs.out.join("line.json");
    for text in ["{}", "", "{\"points\": [", "[1, 2]"] {
        fs::write(&file, text).unwrap();
        let refusal = runs.draw("line", &[sgd, swa], "--points 4").refusal();
        assert!(
            refusal.contains("does not hold the points of a line"),
            "{refusal}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}
