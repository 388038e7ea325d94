//! Calls into code that may panic, without its message on standard error.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use planish_passes::EngineError;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`; an error or a panic becomes [`EngineError::Failed`]. `f` must not leave shared state half-changed.
///
/// The panic hook belongs to the whole process, so it is wrapped once, and stays silent only for a thread that is in
/// here.
pub(super) fn quietly<T, E: std::fmt::Display>(f: impl FnOnce() -> Result<T, E>) -> Result<T, EngineError> {
    static WRAP: Once = Once::new();
    WRAP.call_once(|| {
        let shown = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                shown(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    QUIET.set(before);
    let message = match result {
        Ok(Ok(value)) => return Ok(value),
        // The alternate form shows the causes, too.
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => format!("the engine panicked: {}", text(&*panic)),
    };
    Err(EngineError::Failed { message })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_become_errors() {
        let error = quietly(|| -> Result<(), String> { panic!("at {}", 3) }).unwrap_err();
        assert_eq!(error.to_string(), "the engine panicked: at 3");
        assert!(!QUIET.get());
        assert_eq!(quietly(|| Ok::<_, String>(4)).unwrap(), 4);
    }
}
