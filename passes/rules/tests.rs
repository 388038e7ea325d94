use crate::testing::check_for;

#[test]
fn gelu() {
    let text = r#"<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4] x) => (float[N,4] y) <float s = {1.4142135}, float one = {1.0}, float half = {0.5}> {
            a = Div (x, s)
            e = Erf (a)
            b = Add (one, e)
            c = Mul (x, b)
            y = Mul (c, half)
        }"#;
    insta::assert_snapshot!(check_for(crate::fuse::Fuse::default(), crate::Target::OnnxruntimeCpu, text), @r#"
    <ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
    g (float[N,4] x) => (float[N,4] y) {
      y = com.microsoft.Gelu (x)
    }
    "#);
}
