//! The folder that an experiment writes to.

use std::fs;
use std::path::{Path, PathBuf};

use super::data_set::DataSet;
use super::plan::Plan;
use super::results_file::{self, ResultsFile};
use crate::Failure;
use crate::data::DataSource;
use crate::run::directory::{delete_unfinished_files, io_error, is_unfinished, write_whole};
use crate::run::lock::Lock;

/// The folder of an experiment: its plan, its results, and the folders of its runs.
#[derive(Debug, Clone)]
pub struct ExperimentDirectory {
    path: PathBuf,
}

impl ExperimentDirectory {
    /// The folder of an experiment that will [`begin`](Self::begin) with `plan`, or goes on with
    /// it. An experiment may gain runs: the plan may have more than that with which it began. Returns the
    /// plan with the location of its data too: `data` if it is given, else that in the plan, else that with
    /// which the experiment began.
    ///
    /// # Errors
    ///
    /// If the experiment that is there has runs that are not in the plan, the folder holds something else, or nothing
    /// says where the data is.
    pub fn with_plan(path: &Path, plan: Plan, data: Option<&str>) -> Result<(Self, Plan), Failure> {
        let directory = Self {
            path: path.to_owned(),
        };
        let begun = directory.plan_file().exists();
        let there = begun.then(|| directory.plan()).transpose()?;
        let began_with = there.as_ref().and_then(|plan| plan.data.clone());
        let data = data.map(str::to_owned).or(plan.data.clone()).or(began_with);
        let plan = on(plan, data)?;
        if let Some(there) = there {
            // Images may have moved: a run tells if they are the same.
            let there = Plan {
                data: plan.data.clone(),
                ..there
            };
            let differences = plan.differences(&there)?;
            if !differences.is_empty() && !plan.has_all_runs_of(&there)? {
                return Err(format!(
                    "{} was begun with another plan: {}. Go on with the plan that is there, {}, or \
                     choose another folder with --out",
                    path.display(),
                    differences.join(", "),
                    directory.plan_file().display(),
                )
                .into());
            }
        }
        Ok((directory, plan))
    }

    /// The folder of an experiment that has begun, and its plan.
    ///
    /// # Errors
    ///
    /// If there is no experiment.
    pub fn open(path: &Path) -> Result<(Self, Plan), Failure> {
        let directory = Self {
            path: path.to_owned(),
        };
        if !directory.plan_file().exists() {
            return Err(format!(
                "{} holds no experiment: expected plan.toml in it, as `cifar experiment` leaves it",
                path.display()
            )
            .into());
        }
        let plan = directory.plan()?;
        Ok((directory, plan))
    }

    fn plan(&self) -> Result<Plan, Failure> {
        let name = self.plan_file().to_string_lossy().into_owned();
        Ok(Plan::parse(&Plan::text(&name)?, &name, &[])?)
    }

    /// Begins an experiment with `plan`: makes the folder, and the plan in it. If one has begun, its plan
    /// takes over where the images are now, and the runs that are new.
    ///
    /// # Errors
    ///
    /// If something else is in it, or it cannot be written.
    pub fn begin(&self, plan: &Plan) -> Result<(), Failure> {
        let path = &self.path;
        if self.plan_file().exists() {
            return if self.plan()? == *plan {
                Ok(())
            } else {
                let _lock = self.lock()?;
                self.write_plan(plan)
            };
        }
        fs::create_dir_all(path).map_err(io_error("make the folder", path))?;
        let entries = fs::read_dir(path).map_err(io_error("read the folder", path))?;
        let lock = self.lock_file();
        for entry in entries {
            let entry = entry.map_err(io_error("read the folder", path))?.path();
            // A process that was killed here leaves these.
            if entry != lock && !is_unfinished(&entry) {
                return Err(format!(
                    "{} is not empty and holds no experiment: choose another folder with --out",
                    path.display()
                )
                .into());
            }
        }
        let _lock = self.lock()?;
        delete_unfinished_files(path)?;
        self.write_plan(plan)
    }

    fn write_plan(&self, plan: &Plan) -> Result<(), Failure> {
        let text = format!(
            "# The plan of the experiment in this folder, complete.\n\n{}",
            plan.to_toml()?
        );
        Ok(write_whole(&self.plan_file(), text.as_bytes())?)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The plan.
    pub fn plan_file(&self) -> PathBuf {
        self.path.join("plan.toml")
    }

    /// The results.
    pub fn results(&self) -> ResultsFile {
        ResultsFile::new(self.path.join(results_file::FILE))
    }

    /// The folder of a run.
    pub fn run(&self, name: &str) -> PathBuf {
        self.path.join("runs").join(name)
    }

    /// The folder in which another run prepares that of a run.
    pub(super) fn run_in_preparation(&self, name: &str) -> PathBuf {
        self.path.join("runs").join(format!(".{name}.part"))
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Takes the right to start runs here.
    ///
    /// # Errors
    ///
    /// If another process has it.
    pub(super) fn lock(&self) -> Result<Lock, Failure> {
        Ok(Lock::take(&self.lock_file(), "")?)
    }

    /// Takes the right to write the results and the folders of runs. The purpose is the name of a
    /// run, or something else. A worker takes this right itself, because it may live a moment
    /// longer than its supervisor.
    ///
    /// # Errors
    ///
    /// If another process has it.
    pub(super) fn lock_runs(&self, purpose: &str) -> Result<Lock, Failure> {
        Ok(Lock::take(&self.runs_lock_file(), purpose)?)
    }

    /// The purpose for which a process has that right, if one has it.
    pub(super) fn runs_in_use_for(&self) -> Option<String> {
        Lock::holder(&self.runs_lock_file())
    }

    fn runs_lock_file(&self) -> PathBuf {
        self.path.join("runs.lock")
    }
}

/// The plan with the location of its data.
fn on(plan: Plan, data: Option<String>) -> Result<Plan, Failure> {
    let all_synthetic = plan.data_sets() == [DataSet::Synthetic];
    let data = data.or_else(|| all_synthetic.then(|| "synthetic".to_owned()));
    let data = data.ok_or(
        "nothing says where the images are: give --data download, --data FOLDER, or for a try \
         --data synthetic",
    )?;
    let Ok(source) = data.parse();
    let mut plan = match source {
        DataSource::Synthetic(_) => plan.on_synthetic_images(),
        _ if all_synthetic => {
            return Err(format!(
                "the plan is on images that are made up, and --data is {data}: leave it out, or name \
                 cifar10 or cifar100 in the plan's data_sets"
            )
            .into());
        }
        _ => plan,
    };
    // The path is kept as it was given, without a separator at its end, so that the plan can be
    // read elsewhere.
    plan.data = Some(match data.trim_end_matches('/') {
        "" => data,
        trimmed => trimmed.to_owned(),
    });
    Ok(plan)
}
