//! The learning rates of a run, and the steps after which it collects.

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::optim::LearningRate;
use swa_train::{Collect, CyclicalLrSchedulerConfig, PaperLrSchedulerConfig, RunLength};

use super::config::RunConfig;
use super::method::MethodSettings;
use crate::Failure;
use crate::data::ImageSet;

impl RunConfig {
    /// The length of the run on `images`, which are those that it uses.
    ///
    /// # Errors
    ///
    /// If it has no epoch or no image.
    pub fn length(&self, images: &ImageSet) -> Result<RunLength, Failure> {
        let items = images.train.len();
        Ok(RunLength::of_items(
            self.epochs,
            items,
            self.sgd.batch_size,
        )?)
    }

    /// The schedule of the method's paper for a run of this length.
    ///
    /// # Errors
    ///
    /// If a rate is not positive, or the run collects nothing.
    pub fn schedule(&self, length: RunLength) -> Result<ModuleLrScheduler, Failure> {
        let sgd = PaperLrSchedulerConfig::sgd(self.sgd.lr, length);
        Ok(match self.method {
            MethodSettings::Sgd | MethodSettings::Ema(_) => sgd.init()?.into(),
            MethodSettings::Swa(swa) | MethodSettings::Swag { swa, .. } => {
                let collect = Collect::from_epoch(swa.start, &length)?;
                let schedule = PaperLrSchedulerConfig::swa(self.sgd.lr, swa.lr, &collect);
                let schedule = schedule.init()?;
                match (swa.lowest_lr, swa.first_cycle()) {
                    (Some(lowest_lr), Some(epoch)) => {
                        let cycles =
                            CyclicalLrSchedulerConfig::swa(swa.lr, lowest_lr, swa.every, &length)?;
                        let cycles = cycles.from_epoch(epoch, &length)?;
                        cycles.init_after(schedule)?.into()
                    }
                    _constant => schedule.into(),
                }
            }
            MethodSettings::Snapshot(_) | MethodSettings::Fge(_) => {
                self.cycles(&length)?.init_after(sgd.init()?)?.into()
            }
        })
    }

    /// The optimizer steps after which the run collects weights, or keeps a member; none for plain SGD.
    ///
    /// # Errors
    ///
    /// If it would never do so.
    pub(super) fn collect(&self, length: &RunLength) -> Result<Option<Collect>, Failure> {
        Ok(match self.method {
            MethodSettings::Sgd => None,
            MethodSettings::Ema(_) => Some(Collect::every_step()),
            MethodSettings::Swa(swa) | MethodSettings::Swag { swa, .. } => {
                let collect = Collect::from_epoch(swa.start, length)?;
                Some(collect.every_epochs(swa.every)?)
            }
            MethodSettings::Snapshot(_) | MethodSettings::Fge(_) => {
                Some(self.cycles(length)?.collect(length)?)
            }
        })
    }

    /// The cycles of Snapshot Ensembles or Fast Geometric Ensembling.
    fn cycles(&self, length: &RunLength) -> Result<CyclicalLrSchedulerConfig, Failure> {
        match self.method {
            MethodSettings::Snapshot(snapshot) => Ok(CyclicalLrSchedulerConfig::snapshot(
                self.sgd.lr,
                snapshot.cycles,
                length,
            )?),
            MethodSettings::Fge(fge) => {
                let (highest, lowest) = (fge.lr, fge.lowest_lr);
                let cycles =
                    CyclicalLrSchedulerConfig::fge(highest, lowest, fge.cycle_epochs, length)?;
                Ok(cycles.from_epoch(fge.start, length)?)
            }
            _ => Err(format!("the method {} has no cycles", self.method.method()).into()),
        }
    }

    /// The learning rate of every step of a run of this length.
    ///
    /// # Errors
    ///
    /// Those of [`schedule`](Self::schedule).
    pub(super) fn rates(
        &self,
        length: RunLength,
    ) -> Result<impl Iterator<Item = LearningRate> + use<>, Failure> {
        let mut schedule = self.schedule(length)?;
        Ok((0..length.total_steps()).map(move |_| schedule.step().base()))
    }

    /// The number of epochs, of the first `epochs`, until the learning rate is another than in the run `other`, if both have
    /// schedules that change from epoch to epoch.
    ///
    /// # Errors
    ///
    /// Those of [`schedule`](Self::schedule).
    pub(crate) fn epochs_alike(&self, other: &Self, epochs: usize) -> Result<usize, Failure> {
        let rates = |run: &Self| run.rates(RunLength::new(run.epochs, 1)?);
        let pairs = rates(self)?.zip(rates(other)?).take(epochs);
        Ok(pairs.take_while(|(here, there)| here == there).count())
    }
}

#[cfg(test)]
mod tests {
    use swa_train::{Collect, RunLength};

    use crate::run::given::tests::given;

    /// The learning rate of every step of 10 epochs of 4 steps, and the steps after which the run collects.
    fn of(arguments: &str) -> (Vec<f64>, Option<Vec<usize>>) {
        let run = given(&format!("--epochs 10 {arguments}")).new_run(10);
        let run = run.unwrap();
        let length = RunLength::new(10, 4).unwrap();
        let collect = run.collect(&length).unwrap();
        let due = |collect: Collect| (1..=40).filter(|step| collect.is_due(*step)).collect();
        (run.rates(length).unwrap().collect(), collect.map(due))
    }

    fn assert_near(rates: &[f64], expected: &[f64]) {
        assert_eq!(rates.len(), expected.len());
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}, {expected:?}");
        }
    }

    #[test]
    fn an_ema_is_trained_at_the_rates_of_plain_sgd() {
        let (ema, collected) = of("--method ema");
        let (sgd, never) = of("--method sgd");
        assert_eq!(ema, sgd);
        assert_eq!(collected.unwrap(), (1..=40).collect::<Vec<_>>());
        assert_eq!(never, None);
    }

    #[test]
    fn swag_is_trained_and_collects_as_swa_does() {
        assert_eq!(of("--method swag"), of("--method swa"));
    }

    #[test]
    fn swa_collects_at_the_lowest_rates_of_its_cycles() {
        // Izmailov et al. 2018, section 3.1, with c = 8 steps: t = 1/8 in the first, and 1 in the last.
        let cycles = "--swa-start 5 --swa-every 2 --swa-lr 0.09 --swa-lowest-lr 0.01";
        let (rates, collected) = of(cycles);
        let cycle = [0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01];
        assert_near(&rates[12..28], &[cycle, cycle].concat());
        assert_eq!(collected.unwrap(), [20, 28, 36]);
        let (constant, _) = of("--swa-start 5 --swa-every 2 --swa-lr 0.09");
        assert_eq!(rates[..12], constant[..12]);
        // From the first step on.
        let (rates, _) = of("--swa-start 1 --swa-lr 0.09 --swa-lowest-lr 0.01");
        assert_near(
            &rates[..8],
            &[0.07, 0.05, 0.03, 0.01, 0.07, 0.05, 0.03, 0.01],
        );
    }

    #[test]
    fn snapshots_are_taken_at_the_ends_of_cosines() {
        // Cycles of 8 steps. Huang et al. 2017, eq. 2, from 0.2: in the middle of a cycle 0.1, and at its quarter
        // 0.1 (1 + cos(pi / 4)).
        let (rates, collected) = of("--method snapshot");
        let quarter = 0.1 * (1.0 + std::f64::consts::FRAC_1_SQRT_2);
        assert_near(
            &[rates[0], rates[2], rates[4], rates[8], rates[12]],
            &[0.2, quarter, 0.1, 0.2, 0.1],
        );
        assert_eq!(collected.unwrap(), [8, 16, 24, 32, 40]);
    }

    #[test]
    fn fge_goes_on_from_plain_sgd_in_triangles_of_epochs() {
        let (sgd, _) = of("--method sgd");
        let (rates, collected) =
            of("--method fge --cycle-epochs 2 --cycle-lr 0.09 --cycle-lowest-lr 0.01");
        // SGD of the whole budget for 8 of 10 epochs, and then a cycle of 8 steps: down by a quarter of 0.08 each.
        assert_eq!(rates[..32], sgd[..32]);
        assert_near(
            &rates[32..],
            &[0.07, 0.05, 0.03, 0.01, 0.03, 0.05, 0.07, 0.09],
        );
        assert_eq!(collected.unwrap(), [36]);
        let (_, collected) = of("--method fge --cycle-epochs 1 --cycle-start 8");
        // The middles of epochs 8, 9 and 10.
        assert_eq!(collected.unwrap(), [30, 34, 38]);
    }
}
