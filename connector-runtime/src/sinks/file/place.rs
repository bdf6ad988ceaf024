//! Where a file connector may write: under `connectors.file_roots` only, links followed first, and never among the
//! node's own data.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The one folder inside the data directory that may be a file root.
const FILES_IN_DATA_DIR: &str = "files";

#[derive(Debug, thiserror::Error)]
pub(super) enum PlaceError {
    #[error("{path} is not under one of connectors.file_roots ({roots})")]
    OutsideRoot { path: String, roots: String },
    #[error("{path} lies in the node's data directory")]
    InDataDir { path: String },
    #[error("{path} is not a regular file")]
    NotRegular { path: String },
    #[error("{path} cannot be used")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Makes the missing folders and returns the path without any link in it. Nothing is made outside the roots.
pub(super) fn settle(path: &Path, roots: &[PathBuf], data_dir: &Path) -> Result<PathBuf, PlaceError> {
    let failed = |source: io::Error| PlaceError::Io { path: path.display().to_string(), source };
    let roots = existing_roots(path, roots).map_err(failed)?;
    let allowed = |real: &Path| allowed(path, real, &roots, data_dir);

    let parent = path.parent().filter(|_| path.is_absolute() && path.file_name().is_some());
    let (Some(parent), Some(name)) = (parent, path.file_name()) else {
        return allowed(path).map(|()| path.to_owned());
    };
    // What exists is followed before anything is made; what does not exist cannot be a link.
    allowed(&real_path(parent).map_err(failed)?.join(name))?;
    make_folders(parent).map_err(failed)?;
    let mut real = fs::canonicalize(parent).map_err(failed)?.join(name);
    match fs::symlink_metadata(&real) {
        Ok(metadata) if metadata.is_symlink() => real = fs::canonicalize(&real).map_err(failed)?,
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    allowed(&real)?;
    match fs::metadata(&real) {
        Ok(metadata) if !metadata.is_file() => Err(PlaceError::NotRegular { path: path.display().to_string() }),
        Ok(_) => Ok(real),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(real),
        Err(error) => Err(failed(error)),
    }
}

fn allowed(path: &Path, real: &Path, roots: &[PathBuf], data_dir: &Path) -> Result<(), PlaceError> {
    if !roots.iter().any(|root| real.starts_with(root) && real != root) {
        let roots = roots.iter().map(|root| root.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(PlaceError::OutsideRoot { path: path.display().to_string(), roots });
    }
    let data_dir = fs::canonicalize(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    if real.starts_with(&data_dir) && !real.starts_with(data_dir.join(FILES_IN_DATA_DIR)) {
        return Err(PlaceError::InDataDir { path: path.display().to_string() });
    }
    Ok(())
}

/// The roots without links; a root that is missing is made when the path lies under it.
fn existing_roots(path: &Path, roots: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut existing = Vec::with_capacity(roots.len());
    for root in roots {
        if path.starts_with(root) {
            make_folders(root)?;
        }
        existing.push(fs::canonicalize(root).unwrap_or_else(|_| root.clone()));
    }
    Ok(existing)
}

/// Makes what is missing, and syncs its names: a file that is safe must not vanish with its folder.
fn make_folders(folder: &Path) -> io::Result<()> {
    let missing = folder.ancestors().take_while(|ancestor| !ancestor.exists()).count();
    fs::create_dir_all(folder)?;
    for made in folder.ancestors().take(missing) {
        if let Some(holder) = made.parent() {
            File::open(holder)?.sync_all()?;
        }
    }
    Ok(())
}

/// `path` with the links of its existing part followed.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    for ancestor in path.ancestors() {
        match fs::canonicalize(ancestor) {
            Ok(real) => {
                let rest = path.strip_prefix(ancestor).map_err(io::Error::other)?;
                return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
            }
            // A dangling link is no missing folder: nothing may be made through it.
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(ancestor).is_err() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Folders {
        _temporary: tempfile::TempDir,
        base: PathBuf,
    }

    fn folders() -> Folders {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let base = fs::canonicalize(temporary.path()).expect("exists");
        for name in ["root", "data/files", "data/meta", "outside"] {
            fs::create_dir_all(base.join(name)).expect("folder");
        }
        symlink(base.join("outside"), base.join("root/link")).expect("link");
        symlink(base.join("outside/secret"), base.join("root/link.log")).expect("link");
        symlink(base.join("root"), base.join("outside/back")).expect("link");
        symlink(base.join("gone"), base.join("root/dangling")).expect("link");
        Folders { _temporary: temporary, base }
    }

    /// `ok`, or the variant's name.
    fn check(roots: &[&str], path: &str, expect: &str) {
        let folders = folders();
        let roots: Vec<PathBuf> = roots.iter().map(|root| folders.base.join(root)).collect();
        let got = match settle(&folders.base.join(path), &roots, &folders.base.join("data")) {
            Ok(_) => "ok",
            Err(PlaceError::OutsideRoot { .. }) => "outside",
            Err(PlaceError::InDataDir { .. }) => "data",
            Err(PlaceError::NotRegular { .. }) => "not regular",
            Err(PlaceError::Io { .. }) => "io",
        };
        assert_eq!(got, expect, "{roots:?} {path}");
        assert!(!folders.base.join("outside/new").exists() && !folders.base.join("gone").exists());
    }

    #[test]
    fn only_paths_under_a_root_are_allowed() {
        check(&["root"], "root/a.log", "ok");
        check(&["root"], "root/new/deep/a.log", "ok");
        check(&["root"], "outside/a.log", "outside");
        check(&["root"], "outside/new/a.log", "outside");
        check(&["root"], "rooted.log", "outside");
        check(&["root"], "root", "outside");
        check(&["missing/root"], "missing/root/a.log", "ok");
        check(&[], "root/a.log", "outside");
    }

    #[test]
    fn links_are_followed_first() {
        check(&["root"], "root/link/a.log", "outside");
        check(&["root"], "root/link/new/a.log", "outside");
        check(&["root"], "root/link.log", "io");
        check(&["root"], "root/dangling/a.log", "io");
        check(&["root"], "outside/back/a.log", "ok");
        check(&["root", "outside"], "root/link/a.log", "ok");
    }

    #[test]
    fn the_nodes_own_data_is_never_written() {
        check(&["."], "data/meta/CURRENT", "data");
        check(&["data"], "data/identity.json", "data");
        check(&["data/files"], "data/files/a.log", "ok");
        check(&["."], "data/files/a.log", "ok");
    }

    #[test]
    fn folders_are_no_files() {
        check(&["."], "outside", "not regular");
        assert!(matches!(
            settle(Path::new("/dev/null"), &[PathBuf::from("/dev")], Path::new("/nowhere")),
            Err(PlaceError::NotRegular { .. })
        ));
    }
}
