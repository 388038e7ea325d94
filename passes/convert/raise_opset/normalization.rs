//! BatchNormalization and GroupNormalization.

use planish_ir::{Attrs, DType, Ref};

use super::draft::{Draft, Input};

/// BatchNormalization-9 lost `spatial`: statistics are always those of a channel.
pub(super) fn spatial(d: &mut Draft<'_>) -> Result<(), String> {
    match d.take_int("spatial")? {
        Some(0) => Err("it normalizes each element by itself (spatial = 0)".into()),
        _ => Ok(()),
    }
}

/// BatchNormalization-14 trains where an attribute says so; before, it did where it had more than one output.
pub(super) fn inference_only(d: &mut Draft<'_>) -> Result<(), String> {
    if (1..d.outputs()).any(|slot| d.has_output(slot)) {
        return Err("it is in training mode (it has more than one output); export the model for inference".into());
    }
    Ok(())
}

/// GroupNormalization-21 scales each channel, where before all channels of a group had one scale and bias.
pub(super) fn per_channel(d: &mut Draft<'_>) -> Result<(), String> {
    let groups = match d.attr("num_groups") {
        Some(planish_ir::Attr::Int(groups)) if *groups > 0 => *groups,
        _ => return Err("its attribute \"num_groups\" is missing or not positive".into()),
    };
    let channels = d.shape(0).and_then(|shape| shape.get(1)?.known()).and_then(|c| i64::try_from(c).ok());
    let channels = channels.ok_or("the number of channels is unknown; declare the shape of its input in the model")?;
    if channels % groups != 0 {
        return Err(format!("its {channels} channels do not make {groups} groups"));
    }
    // The old version calculates in the type of the data, the new one in float32 unless it is told.
    let dtype = d.dtype(0)?;
    if dtype != DType::F32 {
        d.set("stash_type", i64::from(dtype.code()));
    }
    if channels == groups {
        return Ok(());
    }
    let column = d.ints("column", &[groups, 1]);
    let table = d.ints("table", &[groups, channels / groups]);
    let row = d.ints("row", &[channels]);
    for (slot, what) in [(1, "scale"), (2, "bias")] {
        let Input::Wire(per_group) = d.input(slot) else { return Err(format!("its {what} is missing")) };
        let repeated = repeat(d, what, per_group, [column, table, row]);
        d.set_input(slot, Input::Wire(repeated));
    }
    Ok(())
}

/// `[groups]` to `[channels]`, each element as often as a group has channels.
fn repeat(d: &mut Draft<'_>, what: &str, per_group: Ref, [column, table, row]: [Ref; 3]) -> Ref {
    let column = d.helper(&format!("{what}_column"), "Reshape", [per_group, column], Attrs::new());
    let table = d.helper(&format!("{what}_table"), "Expand", [column, table], Attrs::new());
    d.helper(what, "Reshape", [table, row], Attrs::new())
}

#[cfg(test)]
mod tests {
    use crate::{
        convert::{RaiseOpset, raise_opset::tests::refusal},
        testing::check,
    };

    const BN: &str = "float[3] s, float[3] b, float[3] m, float[3] v";

    #[test]
    fn statistics_are_per_channel() {
        insta::assert_snapshot!(check::<RaiseOpset>(&format!(
            r#"<ir_version: 4, opset_import: ["" : 7]>
            g (float[N,3,4] x, {BN}) => (float[N,3,4] y) {{ y = BatchNormalization <spatial = 1> (x, s, b, m, v) }}"#,
        )), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N,3,4] y) {
          y = BatchNormalization (x, s, b, m, v)
        }
        "#);
    }

    #[test]
    fn refuses_training() {
        let graph = |node: &str| {
            format!(r#"<ir_version: 4, opset_import: ["" : 7]> g (float[N,3] x, {BN}) => (float[N,3] y) {{ {node} }}"#)
        };
        insta::assert_snapshot!(
            refusal(&graph("y = BatchNormalization <spatial = 0> (x, s, b, m, v)")),
            @r#"the node "y" (BatchNormalization) has no equivalent in opset 9: it normalizes each element by itself (spatial = 0)"#
        );
        insta::assert_snapshot!(
            refusal(&graph("y, mean, var = BatchNormalization (x, s, b, m, v)")),
            @r#"the node "y" (BatchNormalization) has no equivalent in opset 14: it is in training mode (it has more than one output); export the model for inference"#
        );
    }

    #[test]
    fn groups_become_channels() {
        insta::assert_snapshot!(check::<RaiseOpset>(
            r#"<ir_version: 8, opset_import: ["" : 18]>
            g (double[1,6,5] x, double[3] s, double[3] b) => (double[1,6,5] y) {
                [norm] y = GroupNormalization <num_groups = 3> (x, s, b)
            }"#,
        ), @r#"
        <ir_version: 10, opset_import: ["" : 21]>
        g (double[1,6,5] x, double[3] s, double[3] b) => (double[1,6,5] y)
        <
          int64[2] norm_column = {3, 1},
          int64[2] norm_table = {3, 2},
          int64[1] norm_row = {6}
        >
        {
          [norm_scale_column] norm_scale_column = Reshape (s, norm_column)
          [norm_scale_table] norm_scale_table = Expand (norm_scale_column, norm_table)
          [norm_scale] norm_scale = Reshape (norm_scale_table, norm_row)
          [norm_bias_column] norm_bias_column = Reshape (b, norm_column)
          [norm_bias_table] norm_bias_table = Expand (norm_bias_column, norm_table)
          [norm_bias] norm_bias = Reshape (norm_bias_table, norm_row)
          [norm] y = GroupNormalization <num_groups = 3, stash_type = 11> (x, norm_scale, norm_bias)
        }
        "#);
    }
}
