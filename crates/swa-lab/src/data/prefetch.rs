//! Work done ahead, in another thread.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{JoinHandle, spawn};

/// The number of finished items that wait to be taken. One more is being made.
const AHEAD: usize = 2;

/// An iterator over `make(i)` for every `i` of a range, in order, made ahead by a thread of its
/// own.
///
/// The thread ends with the last item, or when the iterator is dropped, which waits for the item
/// that is being made. A panic of `make` is a panic of `next`.
#[derive(Debug)]
pub(super) struct Prefetch<T> {
    items: Option<Receiver<T>>,
    worker: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Starts the thread.
    ///
    /// # Panics
    ///
    /// Panics if the operating system refuses another thread.
    pub(super) fn new(
        range: Range<usize>,
        mut make: impl FnMut(usize) -> T + Send + 'static,
    ) -> Self {
        let (sender, items) = sync_channel(AHEAD);
        let worker = spawn(move || {
            for index in range {
                if sender.send(make(index)).is_err() {
                    break;
                }
            }
        });
        Self {
            items: Some(items),
            worker: Some(worker),
        }
    }
}

impl<T> Iterator for Prefetch<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.items.as_ref()?.recv().ok();
        if item.is_none()
            && let Some(worker) = self.worker.take()
            && let Err(panic) = worker.join()
        {
            resume_unwind(panic);
        }
        item
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        // The worker's next `send` fails once nobody receives.
        self.items = None;
        if let Some(worker) = self.worker.take() {
            // The worker has printed its panic, and nobody waits for its items any more. To panic
            // again here could abort the process.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn items_come_in_order() {
        let items: Vec<usize> = Prefetch::new(3..50, |index| index * 2).collect();
        assert_eq!(items, (3..50).map(|index| index * 2).collect::<Vec<_>>());
    }

    #[test]
    fn an_iterator_dropped_early_waits_for_the_work_to_stop() {
        let made = Arc::new(AtomicUsize::new(0));
        let counter = made.clone();
        let mut items = Prefetch::new(0..1_000_000, move |_| {
            counter.fetch_add(1, Ordering::SeqCst)
        });
        assert_eq!(items.next(), Some(0));
        drop(items);
        // The worker, which owned the other reference, has ended.
        assert_eq!(Arc::strong_count(&made), 1);
        assert!(made.load(Ordering::SeqCst) <= 2 + AHEAD);
    }

    #[test]
    #[should_panic(expected = "item 2 failed")]
    fn a_panic_of_the_worker_reaches_the_one_who_waits() {
        Prefetch::new(0..5, |index| assert_ne!(index, 2, "item 2 failed")).count();
    }
}
