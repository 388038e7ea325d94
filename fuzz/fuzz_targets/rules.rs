//! A rule file is refused with a place in it, or its rules act on a graph and leave a valid one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use planish_ir::{text, verify};
use planish_passes::{Driver, DriverError, InMemory, NoObserver, Target, find};

/// Something for rules to match.
const GRAPH: &str = r#"<ir_version: 10, opset_import: ["" : 20]>
    g (float[N,4] x, float[N,4] z) => (float[N,4] y, float[N,4] o)
    <float one = {1.0}, float half = {0.5}, float[4] s = {1.0, 2.0, 3.0, 4.0}, int64[1] last = {-1}> {
    a = Add (x, one)  e = Erf (a)  b = Mul (e, half)  m = ReduceMean (b, last)  d = Sub (b, m)  q = Mul (d, s)
    l, r = Split <axis = 1, num_outputs = 2> (q)  c = Concat <axis = 1> (l, r)  t = Transpose <perm = [1, 0]> (c)
    u = Transpose <perm = [1, 0]> (t)  y = Clip (u, half, one)  w = Relu (z)  o = Sum (w, z, d)
}"#;

fuzz_target!(|rules: &str| {
    let Some(entry) = find("rules") else { return };
    let Ok(step) = entry.configured(serde_json::json!({"text": rules})) else { return };
    let Ok(mut model) = text::parse(GRAPH) else { return };
    let driver = Driver {
        engine: None,
        calibration: None,
        stopwatch: None,
        weights: &InMemory,
        target: Target::OnnxruntimeCpu,
        stop_after: Some(200),
        bindings: Default::default(),
        observer: &NoObserver,
    };
    match driver.run(&mut model, &[step]) {
        // Two rules may undo each other for ever.
        Ok(_) | Err(DriverError::Endless { .. }) => {}
        Err(e) => panic!("{e}\n{rules}"),
    }
    if let Err(e) = verify(&model) {
        panic!("{e}\n{rules}");
    }
});
