//! Measurements beside those of another program or machine.

use std::fs;
use std::path::Path;

use super::bench::{Figures, Measurement};
use crate::Failure;

/// A row of the table: its name, its figure, and the number of its decimals.
type Row = (&'static str, fn(&Figures) -> Option<f64>, usize);

#[rustfmt::skip]
const ROWS: [Row; 13] = [
    ("training in fp32, images/s", |it| it.train_fp32_images_per_s, 0),
    ("a step in fp32, ms", |it| it.step_fp32_ms, 2),
    ("training in TF32, images/s", |it| it.train_tf32_images_per_s, 0),
    ("a step in TF32, ms", |it| it.step_tf32_ms, 2),
    ("a step with SWA, of one without", |it| it.step_with_swa_ratio, 4),
    ("a step with EMA, of one without", |it| it.step_with_ema_ratio, 3),
    ("an update of SWA's average, ms", |it| it.update_swa_ms, 3),
    ("an update of an EMA, ms", |it| it.update_ema_ms, 3),
    ("launches of an update", |it| it.update_swa_launches, 0),
    ("re-estimating BatchNorm, ms a batch", |it| it.train_mode_forward_ms, 2),
    ("inference, ms a batch", |it| it.inference_ms, 2),
    ("memory in fp32, MiB", |it| it.peak_mib_fp32, 0),
    ("memory in TF32, MiB", |it| it.peak_mib_tf32, 0),
];

/// Reads measurements: lines of JSON, as `cifar bench` and `benches/pytorch_peer.py` print them.
///
/// # Errors
///
/// If the file cannot be read, has no line, or one that is no measurement.
pub fn read(file: &Path) -> Result<Vec<Measurement>, Failure> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {name}: {error}"))?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let measurements = lines.map(|(index, line)| {
        serde_json::from_str(line).map_err(|error| {
            let expected =
                "expected a line of JSON as `cifar bench` or benches/pytorch_peer.py prints it";
            Failure::from(format!("{name}, line {}: {expected}: {error}", index + 1))
        })
    });
    let measurements = measurements.collect::<Result<Vec<_>, Failure>>()?;
    if measurements.is_empty() {
        return Err(format!(
            "{name}: is empty; give what `cifar bench` or benches/pytorch_peer.py printed"
        )
        .into());
    }
    Ok(measurements)
}

/// Checks that a table of ours beside others has a network.
///
/// # Errors
///
/// If none of ours is among the others, by network, batch size and widths.
pub fn check(ours: &[Measurement], others: &[Measurement], file: &Path) -> Result<(), Failure> {
    if ours.iter().any(|ours| of_same_work(ours, others).is_some()) {
        return Ok(());
    }
    let listed = |of: &[Measurement]| {
        let names = of
            .iter()
            .map(|it| format!("{} with {}", it.model, it.batch));
        names.collect::<Vec<_>>().join(", ")
    };
    Err(format!(
        "{} has no network and batch size that is timed here: it has {}, and here it is {}",
        file.display(),
        listed(others),
        listed(ours)
    )
    .into())
}

/// The table of ours beside others of the same networks, batch sizes and widths, line by line.
pub fn table(ours: &[Measurement], others: &[Measurement]) -> Vec<String> {
    let mut lines = Vec::new();
    for ours in ours {
        let Some(other) = of_same_work(ours, others) else {
            continue;
        };
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.push(format!("{}, batches of {}", ours.model, ours.batch));
        lines.push(format!(
            "{:<36} {:>12} {:>12} {:>8}",
            "", "here", "beside", "ratio"
        ));
        for (name, figure, decimals) in ROWS {
            let pair = [figure(&ours.figures), figure(&other.figures)];
            if pair == [None, None] {
                continue;
            }
            let [here, beside] = pair.map(|it| {
                it.map_or_else(|| "-".to_owned(), |number| format!("{number:.decimals$}"))
            });
            let ratio = match pair {
                [Some(here), Some(beside)] if beside != 0.0 => format!("{:.2}", here / beside),
                _ => "-".to_owned(),
            };
            lines.push(format!("{name:<36} {here:>12} {beside:>12} {ratio:>8}"));
        }
        for (name, it) in [("here", ours), ("beside", other)] {
            lines.push(format!("{name}: {}", made_by(it)));
        }
    }
    lines
}

/// The measurement among others of the same network, batch size and widths.
fn of_same_work<'a>(ours: &Measurement, others: &'a [Measurement]) -> Option<&'a Measurement> {
    others.iter().find(|other| is_same_work(ours, other))
}

/// Tells whether two are of the same network, widths and batch size. PyTorch's scripts write names without hyphens.
fn is_same_work(ours: &Measurement, other: &Measurement) -> bool {
    let plain = |name: &str| name.replace(['-', '_'], "").to_lowercase();
    let divisor = |it: &Measurement| it.width_divisor.unwrap_or(1);
    plain(&ours.model) == plain(&other.model)
        && ours.batch == other.batch
        && divisor(ours) == divisor(other)
}

/// The program and the device of a measurement, in words.
fn made_by(it: &Measurement) -> String {
    let program = match (&it.torch, &it.burn, &it.cifar) {
        (Some(torch), ..) => format!("PyTorch {torch}"),
        (None, Some(burn), Some(cifar)) => format!("Burn {burn}, cifar {cifar}"),
        _ => "an unknown program".to_owned(),
    };
    if it.device.is_empty() {
        program
    } else {
        format!("{program}, on {}", it.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as PyTorch's script prints it.
    const PEER: &str = r#"{"model": "preresnet20", "batch": 128, "device": "cpu", "torch": "2.9.0",
        "train_fp32_images_per_s": 320, "step_fp32_ms": 400.0, "update_swa_ms": 0.5, "update_ema_ms": 0.5,
        "train_mode_forward_ms": 100.0, "inference_ms": 80.0}"#;

    fn ours() -> Measurement {
        Measurement {
            model: "preresnet-20".to_owned(),
            batch: 128,
            device: "a processor".to_owned(),
            burn: Some("0.22.1".to_owned()),
            cifar: Some("0.1.0".to_owned()),
            figures: Figures {
                train_fp32_images_per_s: Some(80.0),
                step_fp32_ms: Some(1600.0),
                step_with_ema_ratio: Some(1.01),
                inference_ms: Some(120.0),
                ..Figures::default()
            },
            ..Measurement::default()
        }
    }

    fn read_text(text: &str) -> Result<Vec<Measurement>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("peer.jsonl");
        fs::write(&file, text).unwrap();
        let folder = format!("{}/", folder.path().display());
        read(&file).map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn pytorchs_figures_stand_beside_ours_with_ratios() {
        let others = read_text(&PEER.replace('\n', "")).unwrap();
        let lines = table(&[ours()], &others);
        let words = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = lines.iter().map(words).collect();
        assert_eq!(
            lines,
            [
                "preresnet-20, batches of 128",
                "here beside ratio",
                "training in fp32, images/s 80 320 0.25",
                "a step in fp32, ms 1600.00 400.00 4.00",
                "a step with EMA, of one without 1.010 - -",
                "an update of SWA's average, ms - 0.500 -",
                "an update of an EMA, ms - 0.500 -",
                "re-estimating BatchNorm, ms a batch - 100.00 -",
                "inference, ms a batch 120.00 80.00 1.50",
                "here: Burn 0.22.1, cifar 0.1.0, on a processor",
                "beside: PyTorch 2.9.0, on cpu",
            ]
        );
    }

    #[test]
    fn a_measurement_survives_its_line() {
        let line = ours().line().unwrap();
        assert!(!line.contains("null") && !line.contains('\n'), "{line}");
        assert_eq!(read_text(&line).unwrap(), [ours()]);
    }

    #[test]
    fn a_file_of_something_else_is_refused_in_a_line() {
        let good = PEER.replace('\n', "");
        for (text, part) in [
            (String::new(), "peer.jsonl: is empty; give what"),
            (
                format!("{good}\n\nTraceback\n"),
                "peer.jsonl, line 3: expected a line of JSON as",
            ),
            ("{\"model\": \"vgg16\"}".to_owned(), "missing field `batch`"),
            ("[1, 2]".to_owned(), "peer.jsonl, line 1: expected"),
        ] {
            let error = read_text(&text).unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{error}");
        }
        let missing = read(Path::new("no/such/file")).unwrap_err().to_string();
        assert!(
            missing.starts_with("cannot read no/such/file: "),
            "{missing}"
        );
    }

    #[test]
    fn another_batch_size_or_width_is_other_work() {
        let file = Path::new("peer.jsonl");
        let mut others = read_text(&PEER.replace('\n', "")).unwrap();
        assert!(check(&[ours()], &others, file).is_ok());
        others[0].batch = 64;
        let error = check(&[ours()], &others, file).unwrap_err().to_string();
        let expected = "peer.jsonl has no network and batch size that is timed here: it has preresnet20 with 64, and \
                        here it is preresnet-20 with 128";
        assert_eq!(error, expected);
        others[0].batch = 128;
        others[0].width_divisor = Some(2);
        assert!(check(&[ours()], &others, file).is_err());
    }
}
