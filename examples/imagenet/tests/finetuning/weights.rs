//! Weights that go in and out.

use std::fs;
use std::path::Path;

use safetensors::SafeTensors;

use crate::files::copy;
use crate::program::{SHAPES, begin, evaluate, imagenet};

/// The shape and the values of a tensor in a file.
fn tensor(file: &Path, name: &str) -> (Vec<usize>, Vec<u8>) {
    let bytes = fs::read(file).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    (tensor.shape().to_vec(), tensor.data().to_vec())
}

#[test]
fn weights_come_from_another_networks_file_but_for_its_head() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = Path::new(SHAPES);
    let [published, two, out] = ["published", "two", "run"].map(|name| folder.path().join(name));
    begin(shapes, &published, &["--epochs", "1", "--method", "sgd"])
        .end()
        .success();
    let weights = published.join("live.safetensors");
    let weights = weights.to_str().unwrap();

    copy(shapes, &two);
    for split in ["train", "val"] {
        fs::remove_dir_all(two.join(split).join("square")).unwrap();
    }
    let settings = [
        "--weights",
        weights,
        "--epochs",
        "1",
        "--lr",
        "1e-9",
        "--momentum",
        "0",
    ];
    let refusal = begin(&two, &out, &settings).end().refusal();
    assert!(
        refusal.contains("fc.weight is [3, 32], expected [2, 32]"),
        "{refusal}"
    );
    assert!(
        refusal.contains("draw fc from the seed with --weights-without fc"),
        "{refusal}"
    );
    assert!(!out.exists());

    let settings = [settings.as_slice(), &["--weights-without", "fc"]].concat();
    let output = begin(&two, &out, &settings).end().success();
    assert!(output.contains("but fc drawn from the seed"), "{output}");
    let trained = out.join("averaged.safetensors");
    assert_eq!(tensor(&trained, "fc.weight").0, [2, 32]);
    // At this rate, no weight that is not small changes.
    let convolution = "layer1.0.conv1.weight";
    let bytes = tensor(&trained, convolution).1;
    let before = tensor(Path::new(weights), convolution).1;
    let values = |bytes: &[u8]| -> Vec<f32> {
        bytes
            .as_chunks()
            .0
            .iter()
            .map(|it| f32::from_le_bytes(*it))
            .collect()
    };
    let pairs = values(&bytes).into_iter().zip(values(&before));
    let furthest = pairs
        .map(|(now, then)| (now - then).abs())
        .fold(0.0, f32::max);
    assert!(furthest < 1e-6, "{furthest}");
}

#[test]
fn an_exported_model_scores_as_the_runs_own() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = Path::new(SHAPES);
    let [out, exported] = ["run", "exported.safetensors"].map(|name| folder.path().join(name));
    begin(shapes, &out, &["--epochs", "2", "--lr", "0.1"])
        .end()
        .success();
    let averaged = out.join("averaged.safetensors");
    let paths = [averaged.to_str().unwrap(), exported.to_str().unwrap()];
    imagenet(["export", paths[0], paths[1]]).success();

    let score = |file: &Path| {
        let output = evaluate(file, shapes, &[]).success();
        assert!(output.contains("on 30 images of "), "{output}");
        assert!(output.contains("32x32 pixels of 37"), "{output}");
        output
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let own = score(&averaged);
    assert_eq!(own, score(&exported));
    let classes = own.iter().filter(|line| line.contains(" 10 ")).count();
    assert_eq!(classes, 3, "{own:?}");
}

#[test]
fn a_batch_in_parts_trains_and_names_what_it_chose() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let settings = ["--epochs", "1", "--accumulate", "3", "--bn-batches", "7"];
    let output = begin(Path::new(SHAPES), &out, &settings).end().success();
    assert!(
        output.contains("images of 32x32 pixels, 3 at once"),
        "{output}"
    );
    assert!(
        output.contains("BatchNorm is re-estimated from 21 of 120 training images."),
        "{output}"
    );
    assert!(out.join("averaged.safetensors").exists());
}

#[test]
fn among_more_than_five_classes_the_likeliest_five_count_too() {
    let folder = tempfile::tempdir().unwrap();
    let [data, out] = ["data", "run"].map(|name| folder.path().join(name));
    for split in ["train", "val"] {
        for (class, shape) in ["a", "b", "c", "d", "e", "f"]
            .into_iter()
            .zip(["circle", "square", "triangle"].into_iter().cycle())
        {
            copy(
                &Path::new(SHAPES).join(split).join(shape),
                &data.join(split).join(class),
            );
        }
    }
    begin(&data, &out, &["--epochs", "1", "--method", "sgd"])
        .end()
        .success();
    let output = evaluate(&out.join("live.safetensors"), &data, &[]).success();
    let last = output.lines().last().unwrap();
    let share = last.strip_suffix(" % have their class among the five likeliest (top-5 accuracy)");
    let share: f64 = share.unwrap_or_else(|| panic!("{output}")).parse().unwrap();
    let all = output
        .lines()
        .find(|line| line.starts_with("all "))
        .unwrap();
    let top_1: f64 = all.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(share >= top_1 && share <= 100.0, "{output}");
    assert_eq!(
        output.lines().filter(|line| line.contains(" 10 ")).count(),
        6,
        "{output}"
    );
}

#[test]
fn the_networks_of_a_run_predict_together() {
    let folder = tempfile::tempdir().unwrap();
    let shapes = Path::new(SHAPES);
    let [out, other] = ["run", "other"].map(|name| folder.path().join(name));
    let settings = ["--method", "snapshot", "--cycles", "2", "--epochs", "2"];
    let output = begin(shapes, &out, &settings).end().success();
    let path = out.to_str().unwrap();
    assert!(
        output.ends_with(&format!("imagenet ensemble {path}\n")),
        "{output}"
    );
    let output = imagenet(["ensemble", path]).success();
    assert!(
        output.starts_with("2 networks on 30 test images of "),
        "{output}"
    );
    // The last snapshot is the network at the end.
    let evaluated = evaluate(&out.join("live.safetensors"), shapes, &[]).success();
    let of_all = evaluated.lines().find(|line| line.starts_with("all "));
    let [loss, accuracy] = [2, 3].map(|at| of_all.unwrap().split_whitespace().nth(at).unwrap());
    let last = output
        .lines()
        .find(|line| line.starts_with("  2 "))
        .unwrap();
    assert!(
        last.split_whitespace()
            .skip(1)
            .step_by(2)
            .take(2)
            .eq([accuracy, loss]),
        "{output}{evaluated}"
    );

    let settings = ["--resize", "40", "--epochs", "1"];
    begin(shapes, &other, &settings).end().success();
    let error = imagenet(["ensemble", path, other.to_str().unwrap()]).refusal();
    assert!(
        error.contains("is given 32x32 pixels of images resized to 37 (Bilinear), and that in")
            && error.contains("32x32 pixels of images resized to 40"),
        "{error}"
    );
}
