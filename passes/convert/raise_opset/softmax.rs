//! Softmax, LogSoftmax and Hardmax: up to opset 12 they see a matrix, since 13 one axis.
//!
//! The old definition flattens the axes from `axis` on into one row. Where all but the first of them have size 1, the
//! row is that axis. Otherwise the flattening is spelled out: Flatten before, Reshape behind.

use planish_ir::{Attrs, Dim, Ref, Type};

use super::draft::{Draft, Input};

/// The default was `axis = 1`.
const OLD_DEFAULT: i64 = 1;

pub(super) fn one_axis(d: &mut Draft<'_>) -> Result<(), String> {
    let axis = d.take_int("axis")?.unwrap_or(OLD_DEFAULT);
    let shape = d.shape(0);
    if let Some(shape) = shape {
        let rank = shape.len() as i64;
        let first = if axis < 0 { axis + rank } else { axis };
        let row = usize::try_from(first).ok().and_then(|first| shape.get(first..)).filter(|row| !row.is_empty());
        let row = row.ok_or_else(|| format!("its axis {axis} is not one of its input's {rank} axes"))?;
        if let [_, behind @ ..] = row
            && behind.iter().all(|dim| dim.known() == Some(1))
        {
            d.set("axis", if behind.is_empty() { -1 } else { first });
            return Ok(());
        }
    }

    let x = d.first()?;
    let matrix = d.helper("matrix", "Flatten", [x], Attrs::new().with("axis", axis));
    d.set_input(0, Input::Wire(matrix));
    d.set("axis", -1);
    let shape = match shape.and_then(reshape_target) {
        Some(target) => d.ints("shape", &target),
        None => d.helper("shape", "Shape", [x], Attrs::new()),
    };
    let (output, graph) = d.output(0)?;
    let whole = d.helper("reshaped", "Reshape", [Ref::Value(output), shape], Attrs::new());
    let dtype = graph.ty(output).and_then(Type::dtype);
    d.move_output(output, whole, dtype.map(|dtype| Type::tensor(dtype, [Dim::Unknown, Dim::Unknown])));
    Ok(())
}

/// What to give to Reshape to get this shape, if at most one size is open. A 0 would not mean an empty axis there.
fn reshape_target(shape: &[Dim]) -> Option<Vec<i64>> {
    let open = shape.iter().filter(|dim| dim.known().is_none()).count();
    if open > 1 || shape.contains(&Dim::Known(0)) {
        return None;
    }
    shape.iter().map(|dim| dim.known().map_or(Some(-1), |n| i64::try_from(n).ok())).collect()
}

#[cfg(test)]
mod tests {
    use crate::{convert::RaiseOpset, testing::check};

    #[test]
    fn a_row_that_is_one_axis() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 6, opset_import: ["" : 11]>
            g (float[N,3,1,1] x) => (float[N,3,1,1] y, float[N,3,1,1] z) {
                y = Softmax (x)
                z = LogSoftmax <axis = -1> (x)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3,1,1] x) => (float[N,3,1,1] y, float[N,3,1,1] z) {
          y = Softmax <axis = 1> (x)
          z = LogSoftmax <axis = -1> (x)
        }
        "#);
    }

    #[test]
    fn a_row_of_several_axes_is_flattened() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 6, opset_import: ["" : 11]>
            g (float[N,3,4] x) => (float[N,3,4] z) {
                y = Softmax (x)
                z = Hardmax <axis = 0> (y)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3,4] x) => (float[N,3,4] z)
        <
          int64[3] y_shape = {-1, 3, 4},
          int64[3] z_shape = {-1, 3, 4}
        >
        {
          [y_matrix] y_matrix = Flatten <axis = 1> (x)
          y_1 = Softmax <axis = -1> (y_matrix)
          [y_reshaped] y = Reshape (y_1, y_shape)
          [z_matrix] z_matrix = Flatten <axis = 0> (y)
          z_1 = Hardmax <axis = -1> (z_matrix)
          [z_reshaped] z = Reshape (z_1, z_shape)
        }
        "#);
    }

    #[test]
    fn the_shape_may_be_open() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 6, opset_import: ["" : 11]> g (float[N,C,L] x) => (float[N,C,L] y) { y = Softmax (x) }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[N,C,L] x) => (float[N,C,L] y) {
          [y_matrix] y_matrix = Flatten <axis = 1> (x)
          y_1 = Softmax <axis = -1> (y_matrix)
          [y_shape] y_shape = Shape (x)
          [y_reshaped] y = Reshape (y_1, y_shape)
        }
        "#);
    }
}
