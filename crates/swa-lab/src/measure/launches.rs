//! The kernels that a device launches.

use burn::tensor::Device;

/// The number of kernels that `work` launches on a device that tells: on CubeCL's.
pub(super) fn launches(device: &Device, work: impl FnOnce()) -> Option<usize> {
    #[cfg(feature = "cubecl")]
    {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};

        use cubecl_runtime::logging::{LaunchObservation, LaunchObserver};

        #[derive(Default)]
        struct Launches(AtomicUsize);

        impl LaunchObserver for Launches {
            fn launched(&self, _kernel: &'static str) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }

        // CubeCL reports the launches of the whole process: nothing else may be under way.
        let _ = device.sync();
        let launches = Arc::new(Launches::default());
        let observation = LaunchObservation::new(launches.clone());
        work();
        let _ = device.sync();
        drop(observation);
        // The CPU's backend is none of CubeCL's.
        Some(launches.0.load(Ordering::SeqCst)).filter(|launches| *launches > 0)
    }
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = device;
        work();
        None
    }
}
