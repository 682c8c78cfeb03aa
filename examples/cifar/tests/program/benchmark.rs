//! `cifar bench`.

use std::fs;

use serde_json::Value;

use crate::process::cifar;

const SETTINGS: &str =
    "bench --models preresnet-8,vgg16 --width-divisor 16 --batch-sizes 2,4 --rounds 1";

fn bench(device: &str) -> (Vec<Value>, String) {
    let ended = cifar(SETTINGS.split(' ').chain(["--device", device]));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(
        ended
            .errors
            .contains("vgg16, batches of 4: timing 1 rounds ..."),
        "{ended:?}"
    );
    let lines = ended.output.lines();
    let lines = lines.map(|line| serde_json::from_str(line).unwrap());
    (lines.collect(), ended.output)
}

fn assert_complete(lines: &[Value], in_launches: bool) {
    let work = lines.iter().map(|line| {
        (
            line["model"].as_str().unwrap(),
            line["batch"].as_u64().unwrap(),
        )
    });
    let expected = [
        ("preresnet-8", 2),
        ("preresnet-8", 4),
        ("vgg16", 2),
        ("vgg16", 4),
    ];
    assert_eq!(work.collect::<Vec<_>>(), expected);
    for line in lines {
        for figure in [
            "train_fp32_images_per_s",
            "step_fp32_ms",
            "step_with_swa_ratio",
            "step_with_ema_ratio",
            "update_swa_ms",
            "update_ema_ms",
            "inference_ms",
        ] {
            assert!(line[figure].as_f64().unwrap() > 0.0, "{figure}: {line}");
        }
        let number = |figure: &str| line[figure].as_f64().unwrap();
        // Images a second are whole numbers.
        let speed = 1e3 * number("batch") / number("step_fp32_ms");
        let off = (number("train_fp32_images_per_s") - speed).abs();
        assert!(off < 0.5 + 0.05 * speed, "{line}");
        // VGG16 has no BatchNorm.
        let has_batch_norm = line["model"] == "preresnet-8";
        assert_eq!(
            line.get("train_mode_forward_ms").is_some(),
            has_batch_norm,
            "{line}"
        );
        assert_eq!(
            line.get("update_swa_launches").is_some(),
            in_launches,
            "{line}"
        );
        assert_eq!(
            (&line["width_divisor"], &line["burn"]),
            (&16.into(), &"0.22.1".into())
        );
    }
}

#[test]
fn a_device_is_timed_in_a_line_of_json_for_each_network() {
    let (lines, output) = bench("flex");
    assert_complete(&lines, false);

    // Beside itself, everything is as fast.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flex.jsonl");
    fs::write(&file, &output).unwrap();
    let file = file.to_str().unwrap();
    let table = cifar(["bench", "--from", file, "--beside", file]).success();
    for line in ["preresnet-8, batches of 2\n", "vgg16, batches of 4\n"] {
        assert!(table.contains(line), "{table}");
    }
    let steps = table
        .lines()
        .filter(|line| line.starts_with("a step in fp32, ms "));
    let ratios: Vec<_> = steps
        .map(|line| line.split_whitespace().last().unwrap())
        .collect();
    assert_eq!(ratios, ["1.00"; 4], "{table}");
}

#[test]
#[cfg(feature = "wgpu")]
fn wgpu_is_timed_with_the_launches_of_an_update() {
    assert_complete(&bench("wgpu").0, true);
}

#[test]
fn a_file_that_is_no_measurement_is_refused_before_timing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("peer.jsonl");
    fs::write(&file, "Traceback (most recent call last):\n").unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["bench", "--beside", file][..], &["bench", "--from", file]] {
        let refusal = cifar(arguments).refusal();
        assert!(
            refusal.contains("peer.jsonl, line 1: expected a line of JSON as"),
            "{refusal}"
        );
    }
    let other = r#"{"model": "vgg16", "batch": 128, "step_fp32_ms": 400.0}"#;
    fs::write(file, other).unwrap();
    let arguments = [
        "bench",
        "--models",
        "preresnet-8",
        "--batch-sizes",
        "2",
        "--beside",
        file,
    ];
    let refusal = cifar(arguments).refusal();
    let expected = "peer.jsonl has no network and batch size that is timed here: it has vgg16 with 128, and here it is preresnet-8 with 2";
    assert!(refusal.contains(expected), "{refusal}");
    let refusal = cifar(["bench", "--beside", "no/such/file"]).refusal();
    assert!(refusal.contains("cannot read no/such/file: "), "{refusal}");
    let refusal = cifar(["bench", "--device", "gpu"]).refusal();
    assert!(refusal.contains("there is no device `gpu`"), "{refusal}");
}
