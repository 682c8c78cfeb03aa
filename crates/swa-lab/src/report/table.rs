//! The paper's Table 1, with our numbers beside the published ones. It is written to `table.json`,
//! and all other forms of the table are made from it.

use serde::Serialize;

use super::comparison::Comparison;
use super::cost::Cost;
use super::methods::Methods;
use super::published::{self, Distance, Published};
use super::results::FinishedRun;
use super::statistics::{Difference, Sample};
use crate::experiment::epoch_after;
use crate::experiment::record::{Method, PredictingModels};
use crate::run::config::EvaluateOn;

/// Test accuracies in per cent, a row for each comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Table<'a> {
    pub(crate) rows: Vec<Row<'a>>,
}

/// A network on a data set.
#[derive(Debug, Serialize)]
pub(crate) struct Row<'a> {
    #[serde(skip)]
    pub(crate) comparison: &'a Comparison<'a>,
    pub(crate) data_set: String,
    /// The network, in words.
    pub(crate) network: String,
    pub(crate) model: String,
    pub(crate) width_divisor: usize,
    pub(crate) train_images: usize,
    pub(crate) test_images: usize,
    pub(crate) evaluate_on: EvaluateOn,
    /// The epochs of one budget.
    pub(crate) budget: usize,
    /// The epoch from which SWA averages, and its learning rate, in words.
    pub(crate) averaging: Option<String>,
    /// SGD after a budget, FGE after one if there is FGE, SWA after 1, 1.25 and 1.5 of them, and SGD after as many as are
    /// more than one, if there is such a run.
    pub(crate) columns: Vec<Column>,
    pub(crate) cost: Cost,
    /// The reason why there are no published numbers to compare with, if there are none.
    pub(crate) unpublished: Option<String>,
    /// The table of methods, if there is more than the columns to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) methods: Option<Methods<'a>>,
}

/// A method after some budgets.
#[derive(Debug, Serialize)]
pub(crate) struct Column {
    #[serde(skip)]
    pub(crate) heading: &'static str,
    pub(crate) method: Method,
    pub(crate) budgets: f64,
    /// The epoch that its accuracies are of.
    pub(crate) epoch: usize,
    /// The seeds of the runs that have reached that epoch.
    pub(crate) seeds: Vec<u64>,
    /// The accuracies over those seeds.
    pub(crate) accuracy: Option<Sample>,
    /// For SWA, the gain over SGD.
    #[serde(rename = "less_sgd")]
    pub(crate) gain: Option<Gain>,
    /// For SWA after more than one budget, the gain over SGD after as many, if the table has that.
    #[serde(rename = "less_sgd_at_equal_cost")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gain_at_equal_cost: Option<Gain>,
    pub(crate) published: Option<Published>,
    pub(crate) less_published: Option<Distance>,
}

/// The gain of SWA over SGD: its accuracy less SGD's.
#[derive(Debug, Serialize)]
pub(crate) struct Gain {
    #[serde(flatten)]
    pub(crate) difference: Difference,
    /// The number of seeds that both have.
    pub(crate) common_seeds: usize,
    /// The number of those seeds with which SWA is better.
    pub(crate) better_seeds: usize,
}

/// The columns: a method, the length of its training in quarters of a budget, and the heading.
pub(crate) const COLUMNS: [(Method, usize, &str); 4] = [
    (Method::Sgd, 4, "SGD, 1 budget"),
    (Method::Swa, 4, "SWA, 1 budget"),
    (Method::Swa, 5, "SWA, 1.25 budgets"),
    (Method::Swa, 6, "SWA, 1.5 budgets"),
];

/// The columns of SWA's control, for tables that have it: SGD that costs as much.
pub(crate) const CONTROL_COLUMNS: [(Method, usize, &str); 2] = [
    (Method::Sgd, 5, "SGD, 1.25 budgets"),
    (Method::Sgd, 6, "SGD, 1.5 budgets"),
];

/// The column of FGE, for tables that have it.
const FGE_COLUMN: (Method, usize, &str) = (Method::Fge, 4, "FGE, 1 budget");

/// The epoch at whose end so many quarters of a budget are over.
pub(crate) fn epoch_of(budget: usize, quarters: usize) -> usize {
    epoch_after(quarters as f64 / 4.0, budget)
}

impl<'a> Table<'a> {
    /// The table of some comparisons.
    pub(crate) fn of(comparisons: &'a [Comparison<'a>]) -> Self {
        let has_fge = comparisons
            .iter()
            .any(|comparison| !comparison.of(Method::Fge).is_empty());
        let controls = CONTROL_COLUMNS.into_iter().filter(|(_, quarters, _)| {
            let mut rows = comparisons.iter();
            rows.any(|row| {
                !row.sgd_until(epoch_of(row.record().budget, *quarters))
                    .is_empty()
            })
        });
        let controls: Vec<_> = controls.collect();
        let rows = comparisons.iter();
        Self {
            rows: rows.map(|row| Row::of(row, has_fge, &controls)).collect(),
        }
    }
}

impl<'a> Row<'a> {
    fn of(
        comparison: &'a Comparison<'a>,
        has_fge: bool,
        controls: &[(Method, usize, &'static str)],
    ) -> Self {
        let run = comparison.record();
        let published = published::of(run);
        let sgd = accuracies(&comparison.sgd, epoch_of(run.budget, 4));
        let columns = COLUMNS.iter().enumerate().map(|(index, column)| {
            let epoch = epoch_of(run.budget, column.1);
            let ours = accuracies(comparison.of(column.0), epoch);
            let published = published.as_ref().ok().map(|row| row[index]);
            let mut column = Column::of(*column, epoch, &ours, published);
            if column.method != Method::Sgd {
                column.gain = Gain::of(&ours, &sgd);
            }
            column
        });
        let mut columns: Vec<_> = columns.collect();
        for control in controls {
            let epoch = epoch_of(run.budget, control.1);
            let longer = accuracies(&comparison.sgd_until(epoch), epoch);
            let swa = accuracies(&comparison.swa, epoch);
            let of_swa =
                |column: &&mut Column| column.method == Method::Swa && column.epoch == epoch;
            if let Some(column) = columns.iter_mut().find(of_swa) {
                column.gain_at_equal_cost = Gain::of(&swa, &longer);
            }
            columns.push(Column::of(*control, epoch, &longer, None));
        }
        if has_fge {
            let epoch = epoch_of(run.budget, FGE_COLUMN.1);
            let ours = ensemble_accuracies(comparison.of(Method::Fge), epoch);
            // As in the paper, between SGD and SWA.
            columns.insert(1, Column::of(FGE_COLUMN, epoch, &ours, published::fge(run)));
        }
        Self {
            comparison,
            data_set: run.data_set.clone(),
            network: comparison.network(),
            model: run.model.clone(),
            width_divisor: run.width_divisor,
            train_images: run.train_images,
            test_images: run.test_images,
            evaluate_on: run.evaluate_on,
            budget: run.budget,
            averaging: comparison.averaging(),
            columns,
            cost: Cost::of(comparison),
            unpublished: published.err(),
            methods: Methods::of(comparison),
        }
    }
}

impl Column {
    /// A column with the accuracies of some seeds.
    fn of(
        (method, quarters, heading): (Method, usize, &'static str),
        epoch: usize,
        ours: &[(u64, f64)],
        published: Option<Published>,
    ) -> Self {
        let accuracy = sample(ours);
        Self {
            heading,
            method,
            budgets: quarters as f64 / 4.0,
            epoch,
            seeds: ours.iter().map(|(seed, _)| *seed).collect(),
            accuracy,
            gain: None,
            gain_at_equal_cost: None,
            published,
            less_published: accuracy
                .zip(published)
                .map(|(ours, published)| published.distance(ours.mean, ours.deviation)),
        }
    }
}

impl Column {
    /// Tells whether this is a column of SWA's control.
    pub(crate) fn is_control(&self) -> bool {
        self.method == Method::Sgd && self.budgets > 1.0
    }
}

impl Gain {
    fn of(swa: &[(u64, f64)], sgd: &[(u64, f64)]) -> Option<Self> {
        let difference = Difference::between(&sample(swa)?, &sample(sgd)?);
        let pairs = swa.iter().filter_map(|(seed, swa)| {
            let (_, sgd) = sgd.iter().find(|(other, _)| other == seed)?;
            Some(swa > sgd)
        });
        let better: Vec<bool> = pairs.collect();
        Some(Self {
            difference,
            common_seeds: better.len(),
            better_seeds: better.iter().filter(|better| **better).count(),
        })
    }
}

/// The seeds of runs, and their test accuracies at the end of an epoch.
fn accuracies(runs: &[&FinishedRun], epoch: usize) -> Vec<(u64, f64)> {
    let accuracy = |run: &&FinishedRun| Some((run.record.seed, run.test_accuracy(epoch)?));
    runs.iter().filter_map(accuracy).collect()
}

/// The seeds of runs of FGE that are as many epochs long, and the test accuracies of their ensembles.
fn ensemble_accuracies(runs: &[&FinishedRun], epochs: usize) -> Vec<(u64, f64)> {
    let runs = runs.iter().filter(|run| run.record.epochs == epochs);
    let accuracy = |run: &&FinishedRun| {
        let members = run.predictions.iter();
        let mut members = members.filter(|of| of.models == PredictingModels::Members);
        let whole = members.next()?.members.last()?.ensemble;
        Some((run.record.seed, whole.accuracy))
    };
    runs.filter_map(accuracy).collect()
}

fn sample(accuracies: &[(u64, f64)]) -> Option<Sample> {
    let values: Vec<f64> = accuracies.iter().map(|(_, accuracy)| *accuracy).collect();
    Sample::of(&values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixture::{method_run, sgd_run, swa_run};

    #[test]
    fn sgd_is_read_off_after_one_budget_and_swa_after_one_and_more() {
        // A budget of four epochs; the average exists from the third on.
        let runs = [
            sgd_run(1, &[20.0, 30.0, 40.0, 60.0]),
            sgd_run(2, &[20.0, 30.0, 40.0, 58.0]),
            swa_run(1, &[40.0, 59.0, 61.0, 64.0]),
            swa_run(2, &[40.0, 59.0, 63.0, 64.0]),
        ];
        let comparisons = Comparison::all(&runs);
        let table = Table::of(&comparisons);
        assert_eq!(table.rows.len(), 1);
        let columns = &table.rows[0].columns;
        let epochs = columns.iter().map(|column| column.epoch);
        assert_eq!(epochs.collect::<Vec<_>>(), [4, 4, 5, 6]);
        let means = columns.iter().map(|column| column.accuracy.unwrap().mean);
        assert_eq!(means.collect::<Vec<_>>(), [59.0, 59.0, 62.0, 64.0]);
        // 61 and 63: squares of 1 and 1, divided by one less than two.
        let deviation = columns[2].accuracy.unwrap().deviation.unwrap();
        assert!((deviation - 2f64.sqrt()).abs() < 1e-12);

        // 62 - 59 = 3, and both deviations are sqrt(2), so sqrt(2/2 + 2/2) = sqrt(2).
        let gain = columns[2].gain.as_ref().unwrap();
        assert_eq!(gain.difference.points, 3.0);
        let errors = gain.difference.standard_errors.unwrap();
        assert!((errors - 3.0 / 2f64.sqrt()).abs() < 1e-12);
        assert_eq!((gain.better_seeds, gain.common_seeds), (2, 2));
        // At a budget seed 1 loses by a point (59 against 60), seed 2 wins by one (59 against 58).
        let at_a_budget = columns[1].gain.as_ref().unwrap();
        assert_eq!((at_a_budget.better_seeds, at_a_budget.common_seeds), (1, 2));
        assert!(columns[0].gain.is_none());
    }

    #[test]
    fn sgd_for_as_long_as_swa_has_a_column_if_there_is_any() {
        // Budgets of four epochs, so six are 1.5.
        let mut other = sgd_run(1, &[50.0; 4]);
        other.record.model = "preresnet-20".to_owned();
        let runs = [
            sgd_run(1, &[20.0, 30.0, 40.0, 60.0]),
            sgd_run(1, &[20.0, 30.0, 40.0, 50.0, 60.0, 66.0]),
            sgd_run(2, &[20.0, 30.0, 40.0, 50.0, 60.0, 64.0]),
            swa_run(1, &[40.0, 59.0, 61.0, 64.0]),
            swa_run(2, &[40.0, 59.0, 63.0, 66.0]),
            swa_run(3, &[40.0, 59.0, 63.0, 62.0]),
            other,
        ];
        let comparisons = Comparison::all(&runs);
        let table = Table::of(&comparisons);
        for row in &table.rows {
            assert_eq!(headings(row)[3..], ["SWA, 1.5 budgets", "SGD, 1.5 budgets"]);
        }
        let columns = &table.rows[0].columns;
        assert_eq!(columns[0].accuracy.unwrap().mean, 60.0);
        let control = &columns[4];
        assert_eq!((control.epoch, control.seeds.as_slice()), (6, &[1, 2][..]));
        assert_eq!(control.accuracy.unwrap().mean, 65.0);
        assert!(control.gain.is_none() && control.published.is_none());
        // Means of 64 and 65. With seed 1 it is 64 against 66, with seed 2 the other way round.
        let gain = columns[3].gain_at_equal_cost.as_ref().unwrap();
        assert_eq!(gain.difference.points, -1.0);
        assert_eq!((gain.better_seeds, gain.common_seeds), (1, 2));
        // SWA's deviation is 2 of three seeds, SGD's sqrt(2) of two: sqrt(4/3 + 2/2).
        let errors = gain.difference.standard_errors.unwrap();
        assert!((errors + 1.0 / (4.0f64 / 3.0 + 1.0).sqrt()).abs() < 1e-12);
        assert!(columns[2].gain_at_equal_cost.is_none());
        // The other network has none.
        let other = &table.rows[1].columns;
        assert_eq!(other[4].accuracy, None);
        assert!(other[3].gain_at_equal_cost.is_none());
    }

    #[test]
    fn what_no_run_came_to_stays_empty() {
        let runs = [swa_run(3, &[40.0, 59.0])];
        let comparisons = Comparison::all(&runs);
        let table = Table::of(&comparisons);
        let columns = &table.rows[0].columns;
        assert_eq!(columns[0].accuracy, None);
        assert_eq!(columns[1].accuracy.unwrap().n, 1);
        assert_eq!(columns[1].seeds, [3]);
        assert!(columns[1].gain.is_none());
        assert_eq!(columns[2].accuracy, None);
    }

    #[test]
    fn quarters_of_a_budget_round_to_the_nearest_epoch_halves_up() {
        // 31.25 and 37.5; 187.5 and 225; 250 and 300.
        let epochs = |budget| [4, 5, 6].map(|quarters| epoch_of(budget, quarters));
        assert_eq!(epochs(25), [25, 31, 38]);
        assert_eq!(epochs(150), [150, 188, 225]);
        assert_eq!(epochs(200), [200, 250, 300]);
    }

    #[test]
    fn headings_are_the_papers() {
        let runs = [swa_run(1, &[40.0])];
        let comparisons = Comparison::all(&runs);
        let table = Table::of(&comparisons);
        let headings = headings(&table.rows[0]);
        assert_eq!(
            headings,
            [
                "SGD, 1 budget",
                "SWA, 1 budget",
                "SWA, 1.25 budgets",
                "SWA, 1.5 budgets"
            ]
        );
    }

    fn headings(row: &Row<'_>) -> Vec<&'static str> {
        row.columns.iter().map(|column| column.heading).collect()
    }

    #[test]
    fn fge_has_a_column_of_its_whole_ensembles_if_there_is_any() {
        let members = [[50.0, 1.0, 0.5, 0.1], [61.0, 1.0, 0.5, 0.1]];
        let fge = |seed| method_run(Method::Fge, seed, PredictingModels::Members, &members);
        let mut longer = fge(2);
        longer.record.epochs = 8;
        let mut other = sgd_run(1, &[60.0; 4]);
        other.record.model = "preresnet-20".to_owned();
        let runs = [fge(1), longer, sgd_run(1, &[60.0; 4]), other];
        let comparisons = Comparison::all(&runs);
        let table = Table::of(&comparisons);
        assert_eq!(table.rows.len(), 2);
        for row in &table.rows {
            assert_eq!(headings(row)[..2], ["SGD, 1 budget", "FGE, 1 budget"]);
        }
        // The run of two budgets does not count.
        let [ours, none] = [0, 1].map(|row: usize| &table.rows[row].columns[1]);
        assert_eq!(ours.accuracy.unwrap().mean, 61.0);
        assert_eq!((ours.epoch, ours.seeds.as_slice()), (4, &[1][..]));
        assert_eq!(none.accuracy, None);
    }

    #[test]
    fn swa_is_read_off_swags_average_where_there_is_no_swa() {
        let swag = method_run(Method::Swag, 1, PredictingModels::Averaged, &[]);
        let runs = [swag, sgd_run(1, &[58.0; 4])];
        let comparisons = Comparison::all(&runs);
        let table = Table::of(&comparisons);
        // The average of the fixture's run is 60 % from epoch 3 to 6.
        let columns = &table.rows[0].columns;
        assert_eq!(columns[3].accuracy.unwrap().mean, 60.0);
        assert_eq!(columns[1].gain.as_ref().unwrap().difference.points, 2.0);
    }
}
