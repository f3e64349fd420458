//! What several threads ask for and one makes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Things by their names, each made once: who asks for one that is being made waits for it.
#[derive(Debug)]
pub(in crate::build) struct Once<T>(Mutex<HashMap<String, Arc<Slot<T>>>>);

#[derive(Debug)]
struct Slot<T> {
    making: Mutex<()>,
    made: OnceLock<Arc<T>>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Once<T> {
    /// Returns the thing of a name. What could not be made is tried again.
    pub(in crate::build) fn get<E>(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let empty = || Arc::new(Slot { making: Mutex::default(), made: OnceLock::new() });
            Arc::clone(slots.entry(name.to_owned()).or_insert_with(empty))
        };
        let _making = slot.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = slot.made.get() {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(make()?);
        Ok(Arc::clone(slot.made.get_or_init(|| made)))
    }
}
