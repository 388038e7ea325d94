//! Finding ONNX Runtime's library, which the Python package `onnxruntime` brings along.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

/// Where the library is: what `ORT_DYLIB_PATH` says, or in the active virtual or Conda environment, or where `python3`
/// looks for packages.
pub(super) fn find() -> Result<PathBuf> {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        return Ok(path.into());
    }
    let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os);
    let active = environments.flat_map(|root| site_packages(Path::new(&root)));
    let found = active.into_iter().find_map(|folder| in_packages(&folder));
    match found.or_else(|| python_path().iter().find_map(|folder| in_packages(folder))) {
        Some(path) => Ok(path),
        None => bail!(
            "ONNX Runtime was not found. Install it with `pip install onnxruntime`, or give its library with \
             --onnxruntime-lib or ORT_DYLIB_PATH"
        ),
    }
}

/// The package folders of an environment.
fn site_packages(root: &Path) -> Vec<PathBuf> {
    let versions = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut folders: Vec<PathBuf> = versions.map(|e| e.path().join("site-packages")).filter(|p| p.is_dir()).collect();
    folders.push(root.join("Lib").join("site-packages"));
    folders.sort();
    folders
}

/// The library in a package folder.
fn in_packages(folder: &Path) -> Option<PathBuf> {
    let capi = folder.join("onnxruntime").join("capi");
    let is_library = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        // libonnxruntime.so.1.20.0, libonnxruntime.1.20.0.dylib, onnxruntime.dll
        match env::consts::OS {
            "windows" => name == "onnxruntime.dll",
            "macos" => name.starts_with("libonnxruntime.") && name.ends_with(".dylib"),
            _ => name.starts_with("libonnxruntime.so"),
        }
    };
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(capi).ok()?.flatten().map(|e| e.path()).filter(is_library).collect();
    files.sort();
    files.pop()
}

/// Where `python3` looks for packages; nothing if there is no such program.
fn python_path() -> Vec<PathBuf> {
    let program = if cfg!(windows) { "python" } else { "python3" };
    let output = Command::new(program).args(["-c", "import sys; print('\\n'.join(sys.path))"]).output();
    let Ok(output) = output else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout).lines().filter(|l| !l.is_empty()).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_a_package_is_found() {
        let root = tempfile::tempdir().unwrap();
        let packages = root.path().join("lib/python3.12/site-packages");
        let capi = packages.join("onnxruntime/capi");
        std::fs::create_dir_all(&capi).unwrap();
        assert_eq!(site_packages(root.path()).iter().find_map(|f| in_packages(f)), None);
        let name = match env::consts::OS {
            "windows" => "onnxruntime.dll",
            "macos" => "libonnxruntime.1.20.0.dylib",
            _ => "libonnxruntime.so.1.20.0",
        };
        std::fs::write(capi.join(name), "").unwrap();
        std::fs::write(capi.join("libonnxruntime_providers_shared.so"), "").unwrap();
        assert_eq!(site_packages(root.path()).iter().find_map(|f| in_packages(f)), Some(capi.join(name)));
    }
}
