//! What is said if ONNX Runtime takes the process with it.
//!
//! Some of its kernels divide integers by zero, where lengths that a model computes of short inputs are 0. The processor then ends the
//! process, and neither a result nor an error comes back. At least it can be said what happened; files are written under other names
//! first, so that nothing half-written is left.

/// Sets a handler for the signal of divisions by zero, for programs that use the engine. Code in Rust never causes it.
#[cfg(unix)]
#[expect(unsafe_code, reason = "handlers of signals are set by the C library")]
pub fn say_if_it_crashes() {
    extern "C" fn say(_signal: libc::c_int) {
        const MESSAGE: &str = "\nerror: ONNX Runtime divided by zero while it ran the model, and ended the process; nothing was written. \
            The original may do so too on samples of these sizes: choose larger ones with --dim, or give real samples. \
            --verify tract does without ONNX Runtime, --verify off without any run\n";
        // SAFETY: both may be called by a handler, the message is a constant, and the second does not return.
        unsafe {
            libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
            libc::_exit(4)
        }
    }
    let handler: extern "C" fn(libc::c_int) = say;
    // SAFETY: the handler has the signature that is asked for, and calls nothing that a handler may not.
    unsafe {
        libc::signal(libc::SIGFPE, handler as libc::sighandler_t);
    }
}

/// There is no such signal.
#[cfg(not(unix))]
pub const fn say_if_it_crashes() {}
