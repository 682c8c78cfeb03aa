//! The recipes of trainings: the settings of a run where none are given.

use std::fmt;

use clap::Command;
use swa_models::NetworkConfig;

use super::config::{RunConfig, SgdSettings};
use super::method::{Method, MethodSettings, SwaSettings};
use crate::data::View;

/// A recipe of a training: the command that trains by it, and the settings of a run where none are given.
pub trait Recipe: Clone + fmt::Debug + Send + Sync + 'static {
    /// The command.
    const COMMAND: &'static str;

    /// The folder of a run.
    const OUT: &'static str;

    /// The network.
    const MODEL: &'static str;

    /// The settings for `network`, which tells so many `classes` apart.
    fn settings(network: &NetworkConfig, classes: usize) -> RunConfig;

    /// Functions that set what follows from other settings. Before each of them, what is given is put in its place.
    const DERIVED: &'static [Derive];

    /// The arguments of the settings, as they are for this recipe.
    fn arguments(command: Command) -> Command;
}

/// A function that sets what follows from other settings, for a method, a network and a number of classes.
pub type Derive = fn(&mut RunConfig, Method, &NetworkConfig, usize);

/// The training of CIFAR's networks as in the papers, from weights that are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Paper;

impl Recipe for Paper {
    const COMMAND: &'static str = "train";
    const OUT: &'static str = "runs/cifar";
    const MODEL: &'static str = "preresnet-20";

    fn settings(network: &NetworkConfig, classes: usize) -> RunConfig {
        RunConfig::paper(network, classes)
    }

    const DERIVED: &'static [Derive] = &[RunConfig::set_method];

    fn arguments(command: Command) -> Command {
        command.mut_args(|argument| {
            let is_of_view = argument.get_id().as_str().starts_with("view.");
            argument.hide(is_of_view)
        })
    }
}

/// The SWA paper's training on ImageNet (Izmailov et al. 2018, section 4.2): ten epochs from trained weights, under a cyclical
/// learning rate, with a collection at the end of each epoch.
///
/// The paper does not fix the rest. The rate falls from 0.001, where torchvision's own training ends, to a hundredth of it. Momentum,
/// weight decay and images are torchvision's, the batches of 64 are fast.ai's.
#[derive(Debug, Clone, Copy)]
pub struct FineTuning;

impl FineTuning {
    /// The number of training images, at least, that BatchNorm is re-estimated from.
    const BATCH_NORM_IMAGES: usize = 8192;

    /// The part of its highest rate that a cycle ends with.
    const LOWEST: f64 = 0.01;

    fn set_method(config: &mut RunConfig, method: Method, network: &NetworkConfig, classes: usize) {
        let lr = config.sgd.lr;
        if let Some(view) = &mut config.view {
            view.resize = view.usual_resize();
        }
        let swa = SwaSettings {
            start: 1,
            every: 1,
            lr,
            lowest_lr: None,
            batch_norm_batches: Some(Self::BATCH_NORM_IMAGES.div_ceil(config.images_at_once())),
        };
        config.method = match MethodSettings::paper(method, network, classes, config.epochs) {
            MethodSettings::Swa(_) => MethodSettings::Swa(swa),
            MethodSettings::Swag { swag, .. } => MethodSettings::Swag { swa, swag },
            MethodSettings::Fge(mut fge) => {
                fge.lr = lr;
                MethodSettings::Fge(fge)
            }
            other => other,
        };
    }

    fn set_lowest_rate(config: &mut RunConfig, _: Method, _: &NetworkConfig, _: usize) {
        match &mut config.method {
            MethodSettings::Swa(swa) | MethodSettings::Swag { swa, .. } => {
                swa.lowest_lr = Some(Self::LOWEST * swa.lr);
            }
            MethodSettings::Fge(fge) => fge.lowest_lr = Self::LOWEST * fge.lr,
            MethodSettings::Sgd | MethodSettings::Ema(_) | MethodSettings::Snapshot(_) => {}
        }
    }
}

impl Recipe for FineTuning {
    const COMMAND: &'static str = "finetune";
    const OUT: &'static str = "runs/imagenet";
    const MODEL: &'static str = "resnet50";

    fn settings(network: &NetworkConfig, classes: usize) -> RunConfig {
        RunConfig {
            view: Some(View::TORCHVISION),
            epochs: 10,
            sgd: SgdSettings {
                batch_size: 64,
                lr: 0.001,
                momentum: 0.9,
                weight_decay: 1e-4,
            },
            ..RunConfig::paper(network, classes)
        }
    }

    const DERIVED: &'static [Derive] = &[Self::set_method, Self::set_lowest_rate];

    fn arguments(command: Command) -> Command {
        command.mut_args(|argument| {
            let help = match argument.get_id().as_str() {
                "data" => {
                    return argument
                        .required_unless_present("resume")
                        .help("The folder of the images, of any size: train/CLASS/* and val/CLASS/*");
                }
                "padding" | "width_divisor" => return argument.hide(true),
                "model" => {
                    "resnet18, 34, 50, 101 or 152, densenet121, 161, 169 or 201, as torchvision has them [default: resnet50]"
                }
                "epochs" => "The number of epochs [default: 10, as in the paper]",
                "batch_size" => "The number of images in a batch [default: 64]",
                "lr" => "The learning rate [default: 0.001]",
                "weight_decay" => "The weight decay of SGD [default: 1e-4]",
                "swa.start" => "Average from the end of this epoch on [default: 1]",
                "swa.lr" => {
                    "The learning rate with which a cycle begins, of --swa-every epochs [default: that of --lr]"
                }
                "swa.lowest_lr" => {
                    "The learning rate with which a cycle ends, and weights are collected; the same as --swa-lr for a \
                     constant rate [default: a hundredth of --swa-lr]"
                }
                "swa.batch_norm_batches" => {
                    "Re-estimate BatchNorm from this many batches of training images [default: those of 8192 images]"
                }
                "fge.lr" => "The learning rate at both ends of a cycle [default: that of --lr]",
                "fge.lowest_lr" => {
                    "The learning rate in the middle of a cycle [default: a hundredth of --cycle-lr]"
                }
                _ => return argument,
            };
            argument.help(help)
        })
    }
}

impl RunConfig {
    /// Settings for a network of which no run is known, its widths divided: those of its paper, or of fine-tuning where it sees images of
    /// any size.
    pub(crate) fn of_no_run(
        network: &NetworkConfig,
        width_divisor: usize,
        classes: usize,
        view: Option<View>,
    ) -> Self {
        let mut config = Self::paper(network, classes);
        if view.is_some() {
            config = FineTuning::settings(network, classes);
            for derive in FineTuning::DERIVED {
                derive(&mut config, Method::Swa, network, classes);
            }
        }
        Self {
            width_divisor,
            view,
            ..config
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::config::PaddingChoice;
    use crate::run::given::tests::of_recipe;

    fn of(arguments: &str) -> RunConfig {
        let given = of_recipe::<FineTuning>(&format!("--data photos {arguments}"));
        given.new_run(37).unwrap()
    }

    #[test]
    fn fine_tuning_is_ten_epochs_of_cycles_that_are_averaged() {
        let run = of("");
        assert_eq!((run.model.as_str(), run.epochs), ("resnet50", 10));
        assert_eq!(run.view, Some(View::TORCHVISION));
        let swa = run.method.swa().unwrap();
        assert_eq!((swa.start, swa.every), (1, 1));
        assert_eq!((swa.lr, swa.lowest_lr), (0.001, Some(1e-5)));
        assert_eq!(swa.batch_norm_batches, Some(128));
    }

    #[test]
    fn what_is_given_decides_what_follows_from_it() {
        let run = of("--lr 0.02 --image-size 64 --batch-size 256 --accumulate 8");
        let swa = run.method.swa().unwrap();
        assert_eq!((swa.lr, swa.lowest_lr), (0.02, Some(0.0002)));
        assert_eq!(swa.batch_norm_batches, Some(256));
        assert_eq!(run.view.unwrap().resize, 73);
        assert_eq!(of("--image-size 4000").view.unwrap().resize, 4096);
        let swa = of("--lr 0.02 --swa-lr 0.5 --bn-batches 3").method.swa();
        let swa = swa.unwrap();
        assert_eq!((swa.lr, swa.lowest_lr), (0.5, Some(0.005)));
        assert_eq!(swa.batch_norm_batches, Some(3));
        let swa = of("--swa-lowest-lr 0.001 --resize 300").method.swa();
        assert_eq!(swa.unwrap().lowest_lr, Some(0.001));
        assert_eq!(of("--method sgd").method, MethodSettings::Sgd);
        let MethodSettings::Fge(fge) = of("--method fge --lr 0.1").method else {
            panic!("FGE");
        };
        assert_eq!((fge.lr, fge.lowest_lr), (0.1, 0.001));
    }

    #[test]
    fn a_view_that_cannot_be_is_refused_by_flag() {
        for (arguments, expected) in [
            ("--image-size 0", "--image-size must be at least 1, not 0"),
            (
                "--resize 223",
                "--resize must be at least --image-size, not 223",
            ),
            (
                "--image-size 100000",
                "--image-size must be at most 4096, in pixels",
            ),
            (
                "--crop-scale 0",
                "--crop-scale must be above 0 and at most 1, not 0",
            ),
            ("--crop-scale nan", "--crop-scale must be above 0"),
            ("--accumulate 0", "--accumulate must be at least 1, not 0"),
            (
                "--accumulate 65",
                "--accumulate must be at most 64, the number of images in a batch, not 65",
            ),
            (
                "--model vgg16",
                "vgg16 takes images of 32x32 pixels, and these have 224x224: choose another --model or --image-size",
            ),
            (
                "--model densenet121 --image-size 28",
                "densenet121 takes images of 29x29 pixels and more, and these have 28x28",
            ),
            (
                "--swa-lowest-lr 1",
                "--swa-lowest-lr must be above 0 and at most --swa-lr, not 1",
            ),
            (
                "--swa-every 2",
                "--swa-every must be at most 1, as the rate falls for so many epochs",
            ),
        ] {
            let given = of_recipe::<FineTuning>(&format!("--data photos {arguments}"));
            let error = given.new_run(37).unwrap_err().to_string();
            assert!(error.contains(expected), "{arguments}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_run_may_leave_out_unreadable_images_from_later_on() {
        let run = of("");
        let given = of_recipe::<FineTuning>("--data elsewhere --skip-unreadable");
        let resumed = given.resumed(&run).unwrap();
        assert!(resumed.view.unwrap().skip_unreadable);
        let given = of_recipe::<FineTuning>("--data elsewhere --image-size 64");
        let error = given.resumed(&run).unwrap_err().to_string();
        assert!(
            error.contains("--image-size is 64 here and 224 there"),
            "{error}"
        );
    }

    #[test]
    fn cifars_images_are_seen_as_they_are() {
        let given = of_recipe::<Paper>("--image-size 64");
        assert_eq!(
            given.new_run(10).unwrap_err().to_string(),
            "--image-size is for images of any size, as `imagenet finetune` takes them: leave it out"
        );
        let padding = of("--padding none").images.padding;
        assert_eq!(padding, PaddingChoice::None);
    }
}
