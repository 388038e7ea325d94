//! Compute in float16, with float32 at the model's inputs and outputs and wherever float16 would fail.
//!
//! Before     y = Conv (x, w);  z = Exp (y)                                 float32
//! After      c = Conv (Cast (x), w);  y = Cast (c);  z = Exp (y)           c and w float16
//! When       the operator takes float16 at the model's opset
//! Refuses    operators without a float16 form, functions, and unknown operators · nodes with subgraphs · values that
//!            come within `headroom` of 65504 on the samples, or are too small for it · divisors that would be 0 ·
//!            sums inside an operator that leave the range · without samples, operators that grow (squares,
//!            exponentials, sums of them), until an operator brings the result back into range · readers of a constant
//!            beyond ±65504 or of a single one below 2⁻²⁵ · sizes and positions that are computed from integers for an
//!            exact reader · what `keep` lists · what lies between nodes in float32 and would only add casts
//! Numerics   Lossy: 11 bits of precision instead of 24. Masks of -3.4e38 before Softmax become -32768.
//! Reference  IEEE 754-2019, binary16; Micikevicius et al., Mixed Precision Training, ICLR 2018
//!
//! The report says for every node in float32 how large and how small its numbers are. The number of casts is the smallest
//! that the nodes in float32 allow. Without calibration samples only constants are checked for range; that activations
//! stay inside it is for the verification afterwards to find. Fuse normalizations first: LayerNormalization computes its
//! statistics in float32 by definition, while its parts add them up in float16 where they can, and cost casts where not.

use planish_ir::Model;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::half::{Format, Settings, convert};
use crate::{Changes, Context, Pass, PassError, Shape, Transform};

/// Configuration.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Float16 {
    /// Nodes that stay in float32, by name, or all of an operator, such as `Softmax` or `com.example::Op`.
    pub keep: Vec<String>,
    /// How many times larger than on the samples activations may get without leaving the range; 1 or more.
    pub headroom: f32,
}

impl Default for Float16 {
    fn default() -> Float16 {
        Float16 { keep: Vec::new(), headroom: 2.0 }
    }
}

/// `Cast` names its target by number from this opset on.
const MIN_OPSET: i64 = 6;

impl Pass for Float16 {
    fn shape(&self) -> Shape<'_> {
        Shape::Transform(self)
    }
}

impl Transform for Float16 {
    fn transform(&self, model: &Model, cx: &Context<'_>) -> Result<Changes, PassError> {
        if model.opset() < MIN_OPSET {
            let opset = model.opset();
            return Err(PassError::Precondition(format!(
                "the model has opset {opset}, and float16 needs {MIN_OPSET} or later; run `raise-opset` first"
            )));
        }
        convert(model, cx, &Settings { format: Format::Float16, keep: &self.keep, headroom: self.headroom })
    }
}

#[cfg(test)]
mod tests {
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

    /// An engine for which every value is 1, but `a` is 60000.
    struct Ranges;

    impl Engine for Ranges {
        fn name(&self) -> &str {
            "ranges"
        }

        fn load(&self, _: &Model, outputs: &[String]) -> Result<Box<dyn Runnable>, EngineError> {
            Ok(Box::new(Loaded(outputs.to_vec())))
        }
    }

    struct Loaded(Vec<String>);

    impl Runnable for Loaded {
        fn run(&self, _: &Tensors) -> Result<Vec<Tensor>, EngineError> {
            Ok(self.0.iter().map(|name| Tensor::scalar_f32(if name == "a" { 6e4 } else { 1.0 })).collect())
        }
    }

    #[test]
    fn what_comes_close_to_the_limit_on_samples_stays() {
        let model = planish_ir::text::parse(
            r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,8] x) => (float[N,8] y)
            <float[8,8] w> {
                n = MatMul (x, w)
                a = MatMul (n, w)
                p = Softmax (a)
                y = MatMul (p, w)
            }"#,
        );
        let mut model = model.unwrap();
        planish_ir::infer::annotate(&mut model);
        let samples: &[Tensors] = &[Tensors::new()];
        let calibration = Calibration { engine: &Ranges, samples: &samples, memory: 1 << 20, watch: &NoObserver };
        let cx = Context { calibration: Some(&calibration), ..Context::bare() };
        let changes = Float16::default().transform(&model, &cx).unwrap();
        let kept: Vec<String> = changes.skipped.iter().map(|(_, id, skip)| format!("{id} {skip:?}")).collect();
        insta::assert_snapshot!(kept.join("\n"), @r#"
        n1 Refused("\"a\" reaches 6.00e4 on the samples, too close to 65504")
        n2 Refused("\"a\" reaches 6.00e4 on the samples, too close to 65504")
        "#);
        insta::assert_snapshot!(changes.notes.join("\n"), @r#"
        2 nodes in float16, 2 in float32 (1 islands); 4 casts
        in float32, largest magnitudes first (1 samples; share of numbers that float16 holds with fewer bits, and as 0):
          node  operator    input   output   weight overflow    fewer     zero  why
          a     MatMul      1.0e0    6.0e4   6.1e-1        0        0        0  "a" reaches 6.00e4 on the samples, too close to 65504
          p     Softmax     6.0e4    1.0e0        -        0        0        0  "a" reaches 6.00e4 on the samples, too close to 65504
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
    fn nothing_is_cast_for_nothing() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[N,8] x) => (float[8,N] y) { t = Transpose (x)
              y = Identity (t) }"#;
        insta::assert_snapshot!(refusals::<Float16>(text).join("\n"), @"
        it lies between nodes in float32, and in float16 it would only add casts
        it lies between nodes in float32, and in float16 it would only add casts
        ");
    }
}
