//! Work done ahead, in other threads.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{JoinHandle, spawn};

/// The number of finished items that wait to be taken. Each thread makes one more.
const AHEAD: usize = 2;

/// An iterator over `make(i)` for every `i` of a range, in order, made ahead by threads of its
/// own, which take turns.
///
/// The threads end with the last item, or when the iterator is dropped, which waits for the items
/// that are being made. A panic of `make` is a panic of `next`.
#[derive(Debug)]
pub(super) struct Prefetch<T> {
    makers: Vec<Maker<T>>,
    /// The one that makes the next item.
    next: usize,
}

#[derive(Debug)]
struct Maker<T> {
    items: Option<Receiver<T>>,
    worker: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts `threads` threads, at least one.
    ///
    /// # Panics
    ///
    /// Panics if the operating system refuses another thread.
    pub(super) fn new(
        range: Range<usize>,
        threads: usize,
        make: impl Fn(usize) -> T + Send + Sync + 'static,
    ) -> Self {
        let make = Arc::new(make);
        let makers = (0..threads).map(|first| {
            let (sender, items) = sync_channel(AHEAD.div_ceil(threads));
            let (make, share) = (make.clone(), range.clone().skip(first).step_by(threads));
            let worker = spawn(move || {
                for index in share {
                    if sender.send(make(index)).is_err() {
                        break;
                    }
                }
            });
            Maker {
                items: Some(items),
                worker: Some(worker),
            }
        });
        Self {
            makers: makers.collect(),
            next: 0,
        }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let threads = self.makers.len();
        let maker = &mut self.makers[self.next];
        self.next = (self.next + 1) % threads;
        let item = maker.items.as_ref()?.recv().ok();
        if item.is_none()
            && let Some(worker) = maker.worker.take()
            && let Err(panic) = worker.join()
        {
            resume_unwind(panic);
        }
        item
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // A worker's next `send` fails once nobody receives.
        self.makers.iter_mut().for_each(|maker| maker.items = None);
        for maker in &mut self.makers {
            if let Some(worker) = maker.worker.take() {
                // The worker has printed its panic, and nobody waits for its items any more. To panic
                // again here could abort the process.
                let _ = worker.join();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn items_come_in_order_however_many_threads_make_them() {
        for (threads, range) in [(1, 3..50), (2, 3..50), (3, 0..2), (2, 7..7)] {
            let items: Vec<usize> = Prefetch::new(range.clone(), threads, |index| {
                // The odd ones take longer.
                std::thread::sleep(std::time::Duration::from_millis((index % 2) as u64));
                index * 2
            })
            .collect();
            assert_eq!(items, range.map(|index| index * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_iterator_dropped_early_waits_for_the_work_to_stop() {
        for threads in [1, 2] {
            let made = Arc::new(AtomicUsize::new(0));
            let counter = made.clone();
            let mut items = Prefetch::new(0..1_000_000, threads, move |index| {
                counter.fetch_add(1, Ordering::SeqCst);
                index
            });
            assert_eq!(items.next(), Some(0));
            drop(items);
            // The workers, which owned the other reference, have ended.
            assert_eq!(Arc::strong_count(&made), 1);
            assert!(made.load(Ordering::SeqCst) <= 1 + AHEAD + threads);
        }
    }

    #[test]
    #[should_panic(expected = "item 2 failed")]
    fn a_panic_of_the_worker_reaches_the_one_who_waits() {
        Prefetch::new(0..5, 2, |index| assert_ne!(index, 2, "item 2 failed")).count();
    }
}
