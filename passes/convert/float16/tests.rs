use planish_ir::Tensor;

use super::*;
use crate::{
    Calibration, Engine, EngineError, NoObserver, Runnable, Tensors,
    testing::check_calibrated,
    testing::{check, check_with, refusals},
};

#[test]
fn casts_stand_at_the_interface_and_are_shared() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y, float[N,8] z)
        <float[8,8] w, float[8] b> {
            y = MatMul (x, w)
            a = Add (y, b)
            r = Relu (a)
            z = MatMul (r, x)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y, float[N,8] z)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float16[8] b = {14498, 47486, 48125, 13856, 47852, 14175, 47954, 45403}  # 0.57910156, -0.68652344, -0.99853516, 0.3828125, -0.8652344, 0.46069336, -0.91503906, -0.1673584
    >
    {
      x_float16 = Cast <to = 10> (x)
      y_1 = MatMul (x_float16, w)
      y = Cast <to = 1> (y_1)
      a = Add (y_1, b)
      r = Relu (a)
      z_1 = MatMul (r, x_float16)
      z = Cast <to = 1> (z_1)
    }
    "#);
}

#[test]
fn squares_stay_in_float32_until_their_root() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y)
        <float[8,8] w, float two = {2.0}, float eps = {1e-12}> {
            a = MatMul (x, w)
            m = ReduceMean <axes = [1]> (a)
            d = Sub (a, m)
            s = Pow (d, two)
            v = ReduceMean <axes = [1]> (s)
            e = Add (v, eps)
            r = Sqrt (e)
            n = Div (d, r)
            y = MatMul (n, w)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float two = {2.0},
      float eps = {1e-12}
    >
    {
      x_float16 = Cast <to = 10> (x)
      a = MatMul (x_float16, w)
      m = ReduceMean <axes = [1]> (a)
      d_1 = Sub (a, m)
      d = Cast <to = 1> (d_1)
      s = Pow (d, two)
      v = ReduceMean <axes = [1]> (s)
      e = Add (v, eps)
      r = Sqrt (e)
      r_float16 = Cast <to = 10> (r)
      n = Div (d_1, r_float16)
      y_1 = MatMul (n, w)
      y = Cast <to = 1> (y_1)
    }
    "#);
}

#[test]
fn a_clipped_norm_is_divided_by_in_float32() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y)
        <float[8,8] w, float eps = {1e-12}> {
            a = MatMul (x, w)
            n = ReduceL2 <axes = [1]> (a)
            c = Clip (n, eps)
            y = Div (a, c)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float eps = {1e-12}
    >
    {
      x_float16 = Cast <to = 10> (x)
      a_1 = MatMul (x_float16, w)
      a = Cast <to = 1> (a_1)
      n = ReduceL2 <axes = [1]> (a)
      c = Clip (n, eps)
      y = Div (a, c)
    }
    "#);
}

#[test]
fn the_large_number_of_a_mask_is_brought_into_range() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x, int64[N,8] mask) => (float[N,8] y)
        <float[8,8] w, float one = {1.0}, float low = {-3.4028234663852886e38}> {
            a = MatMul (x, w)
            m = Cast <to = 1> (mask)
            i = Sub (one, m)
            b = Mul (i, low)
            s = Add (a, b)
            p = Softmax (s)
            y = MatMul (p, w)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x, int64[N,8] mask) => (float[N,8] y)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float16 one = {15360},  # 1.0
      float16 low = {63488}  # -32768.0
    >
    {
      x_float16 = Cast <to = 10> (x)
      a = MatMul (x_float16, w)
      m = Cast <to = 10> (mask)
      i = Sub (one, m)
      b = Mul (i, low)
      s = Add (a, b)
      p = Softmax (s)
      y_1 = MatMul (p, w)
      y = Cast <to = 1> (y_1)
    }
    "#);
}

#[test]
fn a_large_number_that_is_no_mask_stays() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y)
        <float[8,8] w, float large = {1e6}> {
            a = MatMul (x, w)
            l = Mul (a, large)
            t = Tanh (l)
            y = MatMul (t, w)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float large = {1000000.0}
    >
    {
      x_float16 = Cast <to = 10> (x)
      a_1 = MatMul (x_float16, w)
      a = Cast <to = 1> (a_1)
      l = Mul (a, large)
      t = Tanh (l)
      t_float16 = Cast <to = 10> (t)
      y_1 = MatMul (t_float16, w)
      y = Cast <to = 1> (y_1)
    }
    "#);
}

#[test]
fn positions_are_counted_in_float32() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x, int64[N,1] position) => (float[N,8] y)
        <float[8,8] w, float[1,8] frequency> {
            p = Cast <to = 1> (position)
            t = Mul (p, frequency)
            c = Cos (t)
            a = MatMul (x, w)
            y = Mul (a, c)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x, int64[N,1] position) => (float[N,8] y)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float[1,8] frequency = {0.2439149, -0.13931532, 0.522609, 0.19857894, -0.30249402, 0.60857755, 0.5647534, 0.49570224}
    >
    {
      x_float16 = Cast <to = 10> (x)
      a_1 = MatMul (x_float16, w)
      a = Cast <to = 1> (a_1)
      p = Cast <to = 1> (position)
      t = Mul (p, frequency)
      c = Cos (t)
      y = Mul (a, c)
    }
    "#);
}

#[test]
fn counts_for_integers_are_exact() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x, int64 n) => (float[N,8] y, int64 h)
        <float[8,8] w, float half = {0.5}> {
            f = Cast <to = 1> (n)
            m = Mul (f, half)
            h = Cast <to = 7> (m)
            a = MatMul (x, w)
            y = Mul (a, m)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x, int64 n) => (float[N,8] y, int64 h)
    <
      float16[8,8] w,  # 8cc7e85b3276, 64 elements
      float half = {0.5}
    >
    {
      x_float16 = Cast <to = 10> (x)
      a_1 = MatMul (x_float16, w)
      a = Cast <to = 1> (a_1)
      f = Cast <to = 1> (n)
      m = Mul (f, half)
      y = Mul (a, m)
      h = Cast <to = 7> (m)
    }
    "#);
}

#[test]
fn sizes_and_element_types_follow_the_slot() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,8,H,W] x) => (float[1,8,H2,W2] y, int64[4] s)
        <float[8,8,1,1] w, float[4] scales = {1.0, 1.0, 2.0, 2.0}> {
            c = Conv (x, w)
            r = Resize (c, , scales)
            s = Shape (r)
            zero = ConstantOfShape <value = float[1] {0.5}> (s)
            y = Add (r, zero)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[1,8,H,W] x) => (float[1,8,H2,W2] y, int64[4] s)
    <
      float16[8,8,1,1] w,  # c9d09fb957b8, 64 elements
      float[4] scales = {1.0, 1.0, 2.0, 2.0}
    >
    {
      x_float16 = Cast <to = 10> (x)
      c = Conv (x_float16, w)
      r = Resize (c, "", scales)
      s = Shape (r)
      zero = ConstantOfShape <value = float16[1] {14336}> (s)
      y_1 = Add (r, zero)
      y = Cast <to = 1> (y_1)
    }
    "#);
}

#[test]
fn captures_and_unknown_operators_read_float32() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
        g (float[N,8] x, bool c) => (float[N,8] y)
        <float[8,8] w> {
            a = MatMul (x, w)
            o = com.example.Op (a)
            i = If (c) <then_branch = t () => (float[N,8] p) { p = Relu (a) },
                        else_branch = e () => (float[N,8] q) { q = Identity (a) }>
            s = Add (i, a)
            y = MatMul (s, w)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
    g (float[N,8] x, bool c) => (float[N,8] y)
    <
      float16[8,8] w  # 8cc7e85b3276, 64 elements
    >
    {
      x_float16 = Cast <to = 10> (x)
      a_1 = MatMul (x_float16, w)
      a = Cast <to = 1> (a_1)
      i = If (c) <
        else_branch = e () => (float[N,8] q) {
          q = Identity (a)
        },
        then_branch = t () => (float[N,8] p) {
          p = Relu (a)
        }
      >
      i_float16 = Cast <to = 10> (i)
      s = Add (i_float16, a_1)
      y_1 = MatMul (s, w)
      y = Cast <to = 1> (y_1)
      o = com.example.Op (a)
    }
    "#);
}

#[test]
fn the_user_may_keep_nodes() {
    let pass = Float16 { keep: vec!["Softmax".into(), "last".into()], ..Float16::default() };
    insta::assert_snapshot!(check_with(pass,
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[N,8] y)
        <float[8,8] w> {
            a = MatMul (x, w)
            p = Softmax (a)
            b = MatMul (p, w)
            [last] y = MatMul (b, w)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,8] x) => (float[N,8] y)
    <
      float[8,8] w,  # 63ff82cf1457, 64 elements
      float16[8,8] w_float16  # 8cc7e85b3276, 64 elements
    >
    {
      x_float16 = Cast <to = 10> (x)
      a_1 = MatMul (x_float16, w_float16)
      a = Cast <to = 1> (a_1)
      p = Softmax (a)
      p_float16 = Cast <to = 10> (p)
      b_1 = MatMul (p_float16, w_float16)
      b = Cast <to = 1> (b_1)
      [last] y = MatMul (b, w)
    }
    "#);
}

/// An engine for which every value is 1, but for those that are listed.
struct Ranges(&'static [(&'static str, &'static [f32])]);

impl Engine for Ranges {
    fn name(&self) -> &str {
        "ranges"
    }

    fn load(&self, _: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
        Ok(Box::new(Loaded(self.0, outputs.to_vec())))
    }
}

struct Loaded(&'static [(&'static str, &'static [f32])], Vec<String>);

impl Runnable for Loaded {
    fn run(&self, _: &Tensors) -> Result<Vec<Tensor>, EngineError> {
        let numbers = |name: &String| self.0.iter().find(|(n, _)| n == name).map_or(&[1.0][..], |(_, v)| *v);
        let tensor = |v: &[f32]| Tensor::from_f32([1, v.len() as u64].as_slice(), v).unwrap();
        Ok(self.1.iter().map(|name| tensor(numbers(name))).collect())
    }
}

/// Reasons and notes for what an engine hands out.
fn measured(engine: &Ranges, nodes: &str) -> String {
    let text = format!(
        r#"<ir_version: 8, opset_import: ["" : 17]> g (float[N,4] x) => (float[N,4] y)
        <float[4,4] w, float[4] b, float two = {{2.0}}> {{ {nodes} }}"#
    );
    let mut model = planish_ir::text::parse(&text).unwrap();
    planish_ir::infer::annotate(&mut model);
    let samples: &[Tensors] = &[Tensors::new()];
    let calibration = Calibration { engine, samples: &samples, memory: 1 << 20, watch: &NoObserver, store: None };
    let cx = Context { calibration: Some(&calibration), ..Context::bare() };
    let changes = Float16::default().transform(&model, &cx).unwrap();
    let kept = changes.skipped.iter().map(|(_, id, skip)| format!("{id} {skip:?}"));
    kept.chain(changes.notes).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_comes_close_to_the_limit_on_samples_stays() {
    let nodes = "n = MatMul (x, w)\n a = MatMul (n, w)\n p = Softmax (a)\n y = MatMul (p, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("a", &[6e4, 1e-6, 1e-9, 0.0])]), nodes), @r#"
    n1 Refused("\"a\" reaches 6.00e4 on the samples, too close to 65504")
    n2 Refused("\"a\" reaches 6.00e4 on the samples, too close to 65504")
    2 nodes in float16, 2 in float32 (1 islands); 4 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator    input   output   weight overflow    fewer     zero  why
      a     MatMul      1.0e0    6.0e4   7.9e-1        0     4.8%     4.8%  "a" reaches 6.00e4 on the samples, too close to 65504
      p     Softmax     6.0e4    1.0e0        -        0    20.0%    20.0%  "a" reaches 6.00e4 on the samples, too close to 65504
    "#);
    insta::assert_snapshot!(measured(&Ranges(&[("a", &[-7e4, 7e4])]), nodes), @r#"
    n1 Refused("\"a\" overflows: 2 of 2 numbers on the samples, up to 7.00e4")
    n2 Refused("\"a\" overflows: 2 of 2 numbers on the samples, up to 7.00e4")
    2 nodes in float16, 2 in float32 (1 islands); 4 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator    input   output   weight overflow    fewer     zero  why
      a     MatMul      1.0e0    7.0e4   7.9e-1        2        0        0  "a" overflows: 2 of 2 numbers on the samples, up to 7.00e4
      p     Softmax     7.0e4    1.0e0        -        2        0        0  "a" overflows: 2 of 2 numbers on the samples, up to 7.00e4
    "#);
}

#[test]
fn samples_show_that_squares_stay_in_range() {
    let nodes = "a = MatMul (x, w)\n s = Pow (a, two)\n y = MatMul (s, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("s", &[16000.0])]), nodes), @"3 nodes in float16, 0 in float32 (0 islands); 2 casts");
    // Inputs of twice the size have squares of four times the size.
    insta::assert_snapshot!(measured(&Ranges(&[("s", &[17000.0])]), nodes), @r#"
    n1 Refused("its result can reach 6.80e4 for inputs 2 times those of the samples")
    2 nodes in float16, 1 in float32 (1 islands); 4 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator    input   output   weight overflow    fewer     zero  why
      s     Pow         1.0e0    1.7e4    2.0e0        0        0        0  its result can reach 6.80e4 for inputs 2 times those of the samples
    "#);
}

#[test]
fn sums_that_no_result_shows() {
    let nodes = "a = MatMul (x, w)\n m = ReduceMean <axes = [1]> (a)\n s = Sub (a, m)\n y = MatMul (s, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("a", &[2e4, -2e4, 1.0])]), nodes), @r#"
    n1 Refused("the numbers that it adds up reach 4.00e4 on the samples")
    3 nodes in float16, 1 in float32 (1 islands); 4 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator      input   output   weight overflow    fewer     zero  why
      m     ReduceMean    2.0e4    1.0e0        -        0        0        0  the numbers that it adds up reach 4.00e4 on the samples
    "#);
    let nodes = "a = MatMul (x, w)\n n = LayerNormalization (a, b)\n y = MatMul (n, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("a", &[300.0, -300.0])]), nodes), @"
    3 nodes in float16, 0 in float32 (0 islands); 2 casts
    1 normalizations in float16 add up squares in float32 by definition (stash_type); 1 of them have to: the sums reach 7.2e5
    ");
}

#[test]
fn differences_that_are_divided_by() {
    let nodes = "a = MatMul (x, w)\n s = Mul (a, a)\n m = Abs (a)\n d = Sub (s, m)\n r = Sqrt (d)\n n = Div (a, r)\n y = MatMul (n, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("s", &[100.1]), ("m", &[100.0]), ("d", &[0.1])]), nodes), @r#"
    n1 Refused("the difference \"d\" is divided by: 12 dB above its rounding errors")
    n2 Refused("the difference \"d\" is divided by: 12 dB above its rounding errors")
    n3 Refused("the difference \"d\" is divided by: 12 dB above its rounding errors")
    n4 Refused("the difference \"d\" is divided by: 12 dB above its rounding errors")
    3 nodes in float16, 4 in float32 (1 islands); 4 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator    input   output   weight overflow    fewer     zero  why
      d     Sub         1.0e2   1.0e-1        -        0        0        0  the difference "d" is divided by: 12 dB above its rounding errors
      s     Mul         1.0e0    1.0e2        -        0        0        0  the difference "d" is divided by: 12 dB above its rounding errors
      m     Abs         1.0e0    1.0e2        -        0        0        0  the difference "d" is divided by: 12 dB above its rounding errors
      r     Sqrt       1.0e-1    1.0e0        -        0        0        0  the difference "d" is divided by: 12 dB above its rounding errors
    "#);
    insta::assert_snapshot!(measured(&Ranges(&[("s", &[100.1]), ("m", &[50.0]), ("d", &[50.1])]), nodes), @"7 nodes in float16, 0 in float32 (0 islands); 2 casts");
}

#[test]
fn numbers_that_are_too_small() {
    let nodes = "a = MatMul (x, w)\n t = Tanh (a)\n y = MatMul (t, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("t", &[1e-6, -1e-7, 2e-8])]), nodes), @r#"
    n1 Refused("\"t\" is tiny: 100 % of its numbers lose bits or all, which leaves 30 dB")
    n2 Refused("\"t\" is tiny: 100 % of its numbers lose bits or all, which leaves 30 dB")
    1 nodes in float16, 2 in float32 (1 islands); 2 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator    input   output   weight overflow    fewer     zero  why
      t     Tanh        1.0e0   1.0e-6        -        0    50.0%    25.0%  "t" is tiny: 100 % of its numbers lose bits or all, which leaves 30 dB
      y     MatMul     1.0e-6    1.0e0   7.9e-1        0    10.0%     5.0%  "t" is tiny: 100 % of its numbers lose bits or all, which leaves 30 dB
    "#);
    let nodes = "a = MatMul (x, w)\n t = Tanh (a)\n d = Div (a, t)\n y = MatMul (d, w)";
    insta::assert_snapshot!(measured(&Ranges(&[("t", &[1.0, 2e-8])]), nodes), @r#"
    n1 Refused("it lies between nodes in float32, and in float16 it would only add casts")
    n2 Refused("it divides by \"t\", of which 1 numbers would be 0")
    2 nodes in float16, 2 in float32 (1 islands); 4 casts
    in float32, largest magnitudes first (1 runs; share of numbers that float16 holds with fewer bits, and as 0):
      node  operator    input   output   weight overflow    fewer     zero  why
      d     Div         1.0e0    1.0e0        -        0        0    25.0%  it divides by "t", of which 1 numbers would be 0
      t     Tanh        1.0e0    1.0e0        -        0        0    33.3%  it lies between nodes in float32, and in float16 it would only add casts
    "#);
}

#[test]
fn values_that_stay_small_on_samples_are_no_reason_to_stay() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,2] x) => (float[N,2] y) <float[2,2] w> { y = MatMul (x, w) }"#;
    let sample = Tensors::from([("x".to_owned(), Tensor::from_f32([1, 2].as_slice(), &[1.0, 2.0]).unwrap())]);
    let calibrated = check_calibrated(Float16::default(), crate::Target::Generic, &[sample], text);
    assert_eq!(calibrated, check::<Float16>(text));
}

#[test]
fn the_interface_is_converted_if_that_is_wanted() {
    let pass = Float16 { interface: InterfaceTypes::Convert, ..Float16::default() };
    insta::assert_snapshot!(check_with(pass,
        r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x, float[N,8] captured, int64[N,8] i, bool c) => (float[N,8] y, float[N,8] s, float[N,8] z)
        <float[8,8] w> {
            y = MatMul (x, w)
            s = Sin (x)
            q = Sin (y)
            f = Cast <to = 1> (i)
            e = If (c) <then_branch = t () => (float[N,8] p) { p = Relu (captured) },
                        else_branch = o () => (float[N,8] r) { r = Identity (captured) }>
            a = Add (e, captured)
            m = MatMul (a, w)
            z = Add (m, q)
        }"#
    ), @r#"
    <ir_version: 8, opset_import: ["" : 17]>
    g (float16[N,8] x, float[N,8] captured, int64[N,8] i, bool c) => (float16[N,8] y, float[N,8] s, float16[N,8] z)
    <
      float16[8,8] w  # 8cc7e85b3276, 64 elements
    >
    {
      y = MatMul (x, w)
      x_float = Cast <to = 1> (x)
      s = Sin (x_float)
      e = If (c) <
        else_branch = o () => (float[N,8] r) {
          r = Identity (captured)
        },
        then_branch = t () => (float[N,8] p) {
          p = Relu (captured)
        }
      >
      a = Add (e, captured)
      a_float16 = Cast <to = 10> (a)
      m = MatMul (a_float16, w)
      y_float = Cast <to = 1> (y)
      q = Sin (y_float)
      q_float16 = Cast <to = 10> (q)
      z = Add (m, q_float16)
      f = Cast <to = 10> (i)
    }
    "#);
}

#[test]
fn quantized_layers_take_their_scales_along() {
    insta::assert_snapshot!(check::<Float16>(
        r#"<ir_version: 9, opset_import: ["" : 19]>
        g (float[1,8,4,4] x) => (float[1,8,4,4] y)
        <float s = {0.05}, int8 z = {0}, int8[8,8,1,1] w, float[8] t = {0.01}, int8[8] o = {0}, float[8] b> {
            q = QuantizeLinear (x, s, z)
            d = DequantizeLinear (q, s, z)
            v = DequantizeLinear <axis = 0> (w, t, o)
            c = Conv (d, v, b)
            y = Relu (c)
        }"#
    ), @r#"
    <ir_version: 9, opset_import: ["" : 19]>
    g (float[1,8,4,4] x) => (float[1,8,4,4] y)
    <
      float s = {0.05},
      int8 z = {0},
      int8[8,8,1,1] w,  # f84d7ab05bd7, 64 elements, 6 % zeros
      float16[8] t = {8479, 8479, 8479, 8479, 8479, 8479, 8479, 8479},  # 0.010002136, 0.010002136, 0.010002136, 0.010002136, 0.010002136, 0.010002136, 0.010002136, 0.010002136
      int8[8] o = {0, 0, 0, 0, 0, 0, 0, 0},
      float16[8] b = {14498, 47486, 48125, 13856, 47852, 14175, 47954, 45403},  # 0.57910156, -0.68652344, -0.99853516, 0.3828125, -0.8652344, 0.46069336, -0.91503906, -0.1673584
      float16 s_float16 = {10854}  # 0.049987793
    >
    {
      q = QuantizeLinear (x, s, z)
      d = DequantizeLinear (q, s_float16, z)
      v = DequantizeLinear <axis = 0> (w, t, o)
      c = Conv (d, v, b)
      y_1 = Relu (c)
      y = Cast <to = 1> (y_1)
    }
    "#);
}

#[test]
fn an_axis_too_long_for_a_sum_in_float16() {
    let text = |n: u64| {
        format!(
            r#"<ir_version: 8, opset_import: ["" : 17]> g (float[4,8] x) => (float[4,{n}] y) <float[8,{n}] w> {{
                a = MatMul (x, w)
                y = Softmax (a) }}"#
        )
    };
    let converted = |n: u64| {
        check::<Float16>(&text(n)).lines().filter(|l| l.contains(" = ")).map(str::to_owned).collect::<Vec<_>>()
    };
    insta::assert_snapshot!(converted(2048).join("\n"), @"
    x_float16 = Cast <to = 10> (x)
    a = MatMul (x_float16, w)
    y_1 = Softmax (a)
    y = Cast <to = 1> (y_1)
    ");
    insta::assert_snapshot!(converted(2049).join("\n"), @"
    x_float16 = Cast <to = 10> (x)
    a_1 = MatMul (x_float16, w)
    a = Cast <to = 1> (a_1)
    y = Softmax (a)
    ");
}

#[test]
fn nothing_is_cast_for_nothing() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,8] x) => (float[8,N] y) { t = Transpose (x)
          y = Identity (t) }"#;
    insta::assert_snapshot!(refusals::<Float16>(text).join("\n"), @"
    it lies between nodes in float32, and in float16 it would only add casts
    it lies between nodes in float32, and in float16 it would only add casts
    ");
}
