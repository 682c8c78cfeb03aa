//! `cifar ensemble`: networks together.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use crate::data_folder::write_image_folder;
use crate::process::cifar;
use crate::small_run::{SmallRun, train};

fn start<'a>(method: &'a str, seed: &'a str) -> Vec<&'a str> {
    let settings = "--model preresnet-8 --width-divisor 16 --train-items 200 --validation-items 40 --batch-size 32 --epochs 4";
    let settings = settings.split(' ').chain(["--seed", seed, "--method"]);
    settings.chain(method.split(' ')).collect()
}

fn run(folder: &Path, method: &str, seed: &str) -> PathBuf {
    let out = folder.join(format!("{}{seed}", method.split(' ').next().unwrap()));
    train(&start(method, seed), &out).end().success();
    out
}

fn ensemble<'a>(arguments: impl IntoIterator<Item = &'a str>) -> crate::process::Ended {
    cifar(["ensemble"].into_iter().chain(arguments))
}

/// The words of the lines of networks.
fn networks(output: &str) -> Vec<Vec<&str>> {
    let (_, table) = output.split_once("network\n").unwrap();
    let lines = table.lines().take_while(|line| !line.is_empty());
    lines
        .map(|line| line.split_whitespace().collect())
        .collect()
}

/// A model file of `cifar train` with a NaN among its weights.
pub(crate) fn with_nan(file: &Path, to: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let bias = metadata.info("fc.bias").unwrap().data_offsets.0 + header + 8;
    bytes[bias..bias + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(to, bytes).unwrap();
}

#[test]
fn networks_alone_have_the_scores_of_an_evaluation() {
    let folder = tempfile::tempdir().unwrap();
    let runs = ["1", "2"].map(|seed| run(folder.path(), "swa --swa-start 3", seed));
    let [first, second] = runs.each_ref().map(|run| run.to_str().unwrap());
    let live = runs[0].join("live.safetensors");
    let output = ensemble([first, second, live.to_str().unwrap()]).success();
    assert!(
        output.starts_with("3 networks on 2000 test images of synthetic\n"),
        "{output}"
    );
    let lines = networks(&output);
    let files = [
        runs[0].join("averaged.safetensors"),
        runs[1].join("averaged.safetensors"),
        live,
    ];
    assert_eq!(lines.len(), 3);
    for (line, file) in lines.iter().zip(&files) {
        let evaluation = cifar(["evaluate", "--model-file", file.to_str().unwrap()]).success();
        let all: Vec<&str> = evaluation
            .lines()
            .last()
            .unwrap()
            .split_whitespace()
            .collect();
        let [loss, accuracy] = [all[2], all[3]];
        assert_eq!([line[1], line[3]], [accuracy, loss], "{output}");
        assert_eq!(*line.last().unwrap(), file.to_str().unwrap());
    }
    // The first is an ensemble of itself, and together they are no worse than on average.
    assert_eq!(lines[0][1..4], [lines[0][4], "%", lines[0][6]]);
    let nll = |line: &Vec<&str>, column: usize| line[column].parse::<f64>().unwrap();
    let mean = lines.iter().map(|line| nll(line, 3)).sum::<f64>() / 3.0;
    assert!(nll(&lines[2], 6) <= mean + 1e-4, "{output}");
    // Which holds 40 images out.
    let expected = format!("which 40 images give that {first} holds out");
    assert!(output.contains(&expected), "{output}");
}

#[test]
fn a_run_stands_for_what_its_method_predicts_with() {
    let folder = tempfile::tempdir().unwrap();
    let files = |method: &str| {
        let run = run(folder.path(), method, "1");
        let output = ensemble([run.to_str().unwrap(), "--samples", "2"]).success();
        let lines = networks(&output);
        let files = lines.iter().map(|line| {
            let file = Path::new(line[9]).strip_prefix(&run).unwrap();
            file.to_str().unwrap().trim_end_matches(',').to_owned()
        });
        files.collect::<Vec<_>>()
    };
    assert_eq!(files("sgd"), ["live.safetensors"]);
    assert_eq!(files("ema"), ["averaged.safetensors"]);
    // 20 steps.
    let members = [
        "members/step-00000010.safetensors",
        "members/step-00000020.safetensors",
    ];
    assert_eq!(files("snapshot --cycles 2"), members);
    let members = [
        "members/step-00000012.safetensors",
        "members/step-00000017.safetensors",
    ];
    assert_eq!(files("fge --cycle-start 3 --cycle-epochs 1"), members);
    assert_eq!(files("swag --swa-start 2"), ["swag.bpk"; 2]);
}

#[test]
fn samples_depend_on_their_seed_scale_and_covariance_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), "swag --swa-start 2 --lr 0.2", "1");
    let run = run.to_str().unwrap();
    let scores = |options: &str| {
        let options = options.split_whitespace();
        let output = ensemble([run, "--samples", "2"].into_iter().chain(options)).success();
        networks(&output)
            .iter()
            .map(|line| line[1..9].join(" "))
            .collect::<Vec<_>>()
    };
    let samples = scores("");
    assert_eq!(samples.len(), 2);
    assert_eq!(scores("--seed 1 --scale 0.5"), samples);
    for other in ["--seed 2", "--scale 0.1", "--diagonal"] {
        assert_ne!(scores(other), samples, "{other}");
    }
    // Without a spread, samples are the average.
    let at_the_mean = scores("--scale 0");
    assert_eq!(at_the_mean[0], at_the_mean[1]);
    let averaged = format!("{run}/averaged.safetensors");
    let alone = ensemble([averaged.as_str()]).success();
    assert_eq!(
        networks(&alone)[0][1..4].join(" "),
        at_the_mean[0]
            .split(' ')
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    );

    for (option, value) in [("--samples", "0"), ("--scale", "-1"), ("--bins", "0")] {
        let refusal = ensemble([run, option, value]).refusal();
        assert!(
            refusal.starts_with(&format!("{option} must be at least")),
            "{refusal}"
        );
    }
}

#[test]
fn networks_of_other_classes_are_refused_by_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let (data, pets) = (folder.path().join("data"), folder.path().join("pets"));
    write_image_folder(&data, &["cat", "dog", "owl"], 5);
    let settings =
        "--no-swa --model preresnet-8 --width-divisor 16 --epochs 1 --batch-size 6 --data";
    let settings: Vec<&str> = settings
        .split(' ')
        .chain([data.to_str().unwrap()])
        .collect();
    train(&settings, &pets).end().success();
    let shapes = SmallRun::PreResNet.finished();
    let files = [shapes.path(), &pets].map(|run| run.join("live.safetensors"));
    let [shapes, pets] = files.each_ref().map(|file| file.to_str().unwrap());
    let refusal = ensemble([shapes, pets]).refusal();
    assert!(
        refusal.starts_with(&format!("{shapes} tells ")),
        "{refusal}"
    );
    assert!(
        refusal.contains(&format!("{pets} cat, dog, owl: an ensemble's networks")),
        "{refusal}"
    );
    // Alone, but not on these images.
    let refusal = ensemble([pets]).refusal();
    assert!(
        refusal.contains("cat, dog, owl apart, and the classes of synthetic are"),
        "{refusal}"
    );
    ensemble([pets, "--data", data.to_str().unwrap()]).success();
}

#[test]
fn a_network_with_nan_is_named_and_left_out_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let run = SmallRun::PreResNet.finished();
    let file = run.path().join("live.safetensors");
    let nan = folder.path().join("nan.safetensors");
    with_nan(&file, &nan);
    let [file, nan] = [&file, &nan].map(|file| file.to_str().unwrap());
    let refusal = ensemble([file, nan]).refusal();
    assert!(
        refusal.starts_with(&format!("{nan}: its logit of image 0 ")),
        "{refusal}"
    );
    assert!(
        refusal.ends_with("leave it out with --leave-out-not-finite"),
        "{refusal}"
    );
    let output = ensemble([nan, file, "--leave-out-not-finite"]).success();
    let lines = networks(&output);
    assert_eq!(lines[0].last(), Some(&file));
    assert!(
        output.contains(&format!("left out, since a logit is not finite: {nan}\n")),
        "{output}"
    );
    let refusal = ensemble([nan, "--leave-out-not-finite"]).refusal();
    assert!(
        refusal.contains("none but 1 with logits that are not finite"),
        "{refusal}"
    );
}

#[test]
fn what_is_no_network_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let refusal = ensemble(["no/such/run"]).refusal();
    assert!(
        refusal.starts_with("no/such/run: no such run or file"),
        "{refusal}"
    );
    let refusal = ensemble([path]).refusal();
    assert!(
        refusal.contains("holds no run: expected config.json"),
        "{refusal}"
    );
    let run = SmallRun::PreResNet.finished();
    fs::remove_file(run.path().join("live.safetensors")).unwrap();
    let refusal = ensemble([run.path().to_str().unwrap()]).refusal();
    assert!(
        refusal.contains("holds a run that is not finished"),
        "{refusal}"
    );
}

#[test]
fn samples_of_a_run_on_other_images_than_its_own_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_image_folder(&data, &["cat", "dog", "owl"], 5);
    let settings = "--method swag --model preresnet-8 --width-divisor 16 --epochs 2 --swa-start 1 --batch-size 6 --data";
    let settings: Vec<&str> = settings
        .split(' ')
        .chain([data.to_str().unwrap()])
        .collect();
    let out = folder.path().join("run");
    train(&settings, &out).end().success();
    let run = out.to_str().unwrap();
    ensemble([run, "--samples", "1"]).success();
    // The same classes, and fewer images.
    let other = folder.path().join("other");
    write_image_folder(&other, &["cat", "dog", "owl"], 4);
    let refusal = ensemble([run, "--samples", "1", "--data", other.to_str().unwrap()]).refusal();
    assert!(
        refusal.contains("was begun with other images: there are 12 images to train on"),
        "{refusal}"
    );
    // Its average needs no training images.
    let averaged = out.join("averaged.safetensors");
    ensemble([
        averaged.to_str().unwrap(),
        "--data",
        other.to_str().unwrap(),
    ])
    .success();

    fs::write(out.join("swag.bpk"), "no record").unwrap();
    let refusal = ensemble([run, "--samples", "1"]).refusal();
    assert!(
        refusal.contains("swag.bpk is damaged, or that of another network ("),
        "{refusal}"
    );
}

#[test]
fn without_images_held_out_there_is_no_temperature() {
    let run = SmallRun::PreResNet.finished();
    let output = ensemble([run.path().to_str().unwrap()]).success();
    assert!(
        output.contains("\nNo temperature for comparison: "),
        "{output}"
    );
}

#[test]
fn a_model_that_was_lost_is_written_again_from_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), "swag --swa-start 2", "1");
    let path = run.to_str().unwrap();
    let predicted = ensemble([path, "--samples", "2"]).success();
    for name in ["averaged.safetensors", "swag.bpk"] {
        fs::remove_file(run.join(name)).unwrap();
        let error = ensemble([path]).refusal();
        let remedy = format!("write it again from the last checkpoint with --resume --out {path}");
        assert!(error.contains(&remedy), "{error}");
        cifar(["train", "--resume", "--out", path]).success();
        let again = ensemble([path, "--samples", "2"]).success();
        assert_eq!(again, predicted, "{name}");
    }
}

#[test]
fn an_ensemble_that_has_lost_a_member_is_not_scored_as_if_it_were_whole() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), "snapshot --cycles 2", "1");
    let path = run.to_str().unwrap();
    let whole = ensemble([path]).success();
    let members = run.join("members");
    // No member of the run.
    fs::copy(
        members.join("step-00000010.safetensors"),
        members.join("step-00000007.safetensors"),
    )
    .unwrap();
    assert_eq!(ensemble([path]).success(), whole);
    fs::remove_file(members.join("step-00000010.safetensors")).unwrap();
    let error = ensemble([path]).refusal();
    assert!(
        error.contains("members lacks the member of step 10, one of 2: name the members that are left one by one"),
        "{error}"
    );
    fs::remove_dir_all(&members).unwrap();
    let error = ensemble([path]).refusal();
    assert!(
        error.contains("members lacks the member of step 10"),
        "{error}"
    );
    let error = ensemble([path, "--samples", "99999999999999"]).refusal();
    assert!(error.contains("--samples must be at most 10000"), "{error}");
}
