//! A small disk of its own for one node: a tmpfs in the mount namespace of a process that holds it. It is filled from
//! outside with ballast, and goes with its holder, however the test ends: nothing is left mounted.
//!
//! ```text
//!   unshare ─► holder: mount tmpfs, then wait ◄── nsenter ── sluice server
//!                          ▲
//!                          └── /proc/<holder>/root/… ◄── ballast, free space
//! ```
//!
//! Root needs no more than the mount namespace. Everybody else gets a user namespace with it, and so does a root who may
//! not mount (in a container without CAP_SYS_ADMIN).

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

const READY: &str = "mounted";
const BALLAST: &str = "ballast";
/// Less than any file system hands out at once.
const BLOCK_BYTES: usize = 4096;

/// Namespaces of a holder, as `unshare` and `nsenter` name them.
const OWN_MOUNTS: &[&str] = &["--mount"];
const OWN_USERS_AND_MOUNTS: &[&str] = &["--user", "--mount"];

pub struct SmallDisk {
    holder: Child,
    namespaces: &'static [&'static str],
    /// The mount point as this process reaches it.
    root: PathBuf,
}

impl SmallDisk {
    /// Mounts a disk of `bytes` over `folder`, for those who enter.
    pub fn mount(folder: &Path, bytes: u64) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let ways: &[_] = match rustix::process::geteuid().is_root() {
            true => &[OWN_MOUNTS, OWN_USERS_AND_MOUNTS],
            false => &[OWN_USERS_AND_MOUNTS],
        };
        for namespaces in ways {
            if let Some(holder) = hold(folder, bytes, namespaces)? {
                let root = PathBuf::from(format!("/proc/{}/root", holder.id()));
                let inside = folder.strip_prefix("/").context("the folder of a disk is not absolute")?;
                return Ok(Self { root: root.join(inside), namespaces, holder });
            }
        }
        bail!(
            "no small disk (why, stands above): the test mounts a tmpfs in a mount namespace of its own, which takes \
             CAP_SYS_ADMIN or a user namespace; allow one of them (as root, in a container --cap-add SYS_ADMIN; \
             otherwise sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns)"
        )
    }

    /// The mount point as this process reaches it, without entering.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// `program` as it runs with this disk in its place. The pid is the program's own.
    pub fn enter(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--preserve-credentials").args(self.namespaces);
        command.args(["--target", &self.holder.id().to_string(), "--"]).arg(program);
        command
    }

    pub fn free_bytes(&self) -> Result<u64> {
        let volume = statvfs(&self.root)?;
        Ok(volume.f_bavail * volume.f_frsize)
    }

    /// Puts as much ballast on the disk as leaves `free_bytes`.
    pub fn leave(&self, free_bytes: u64) -> Result<()> {
        let ballast = self.ballast()?;
        let free_now = self.free_bytes()?;
        ensure!(free_now > free_bytes, "only {free_now} bytes are free, {free_bytes} should be left");
        grow(&ballast, free_now - free_bytes).context("ballast")
    }

    /// Fills the disk up to the last byte.
    pub fn fill(&self) -> Result<()> {
        let ballast = self.ballast()?;
        // Who else writes may take some of it meanwhile, or give some back.
        loop {
            match grow(&ballast, self.free_bytes()?) {
                Ok(()) | Err(Errno::NOSPC) => {}
                Err(error) => return Err(error).context("ballast"),
            }
            match (&ballast).write(&[1; BLOCK_BYTES]) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error).context("ballast"),
            }
        }
    }

    /// Takes so much of the ballast away.
    pub fn release(&self, bytes: u64) -> Result<()> {
        let ballast = self.ballast()?;
        let length = ballast.metadata()?.len();
        ballast.set_len(length.checked_sub(bytes).context("less ballast than that")?).context("ballast")
    }

    /// Takes all ballast away.
    pub fn relieve(&self) -> Result<()> {
        std::fs::remove_file(self.root.join(BALLAST)).context("ballast")
    }

    fn ballast(&self) -> Result<File> {
        let path = self.root.join(BALLAST);
        OpenOptions::new().create(true).append(true).open(&path).with_context(|| format!("open {}", path.display()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A process that has mounted the disk in namespaces of its own; none where it may not. It ends with this process.
fn hold(folder: &Path, bytes: u64, namespaces: &[&str]) -> Result<Option<Child>> {
    let mut command = Command::new("unshare");
    command.args(namespaces);
    if namespaces.contains(&"--user") {
        command.arg("--map-root-user");
    }
    let mut holder = command
        .args(["sh", "-c"])
        .arg(format!("mount -t tmpfs -o size={bytes},mode=755 tmpfs \"$1\" && echo {READY} && exec cat"))
        .arg("holder")
        .arg(folder)
        // Its end closes when this process goes, and `cat` with it.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start unshare (Debian package util-linux)")?;
    let mut line = String::new();
    let output = holder.stdout.take().context("the holder of a disk without output")?;
    BufReader::new(output).read_line(&mut line)?;
    if line.trim() == READY {
        return Ok(Some(holder));
    }
    let status = holder.wait()?;
    eprintln!("small disk: unshare {} ended with {status}", namespaces.join(" "));
    Ok(None)
}

fn grow(ballast: &File, bytes: u64) -> std::result::Result<(), Errno> {
    if bytes == 0 {
        return Ok(());
    }
    let length = ballast.metadata().map_or(0, |metadata| metadata.len());
    fallocate(ballast, FallocateFlags::empty(), length, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_to_the_last_byte_and_only_for_those_who_enter() {
        let scratch = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(scratch.path(), 4 << 20).unwrap();
        let file = scratch.path().join("file");
        let write = |bytes: usize| {
            let mut command = disk.enter(Path::new("sh"));
            command.args(["-c", "head -c \"$1\" /dev/zero > \"$2\"", "write", &bytes.to_string()]).arg(&file);
            command.stderr(Stdio::null()).status().unwrap().success()
        };
        disk.leave(1 << 20).unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 1 << 20);
        assert!(write(900 << 10) && !write(2 << 20));
        disk.fill().unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 0);
        disk.release(1 << 20).unwrap();
        assert_eq!(disk.free_bytes().unwrap(), 1 << 20);
        disk.relieve().unwrap();
        assert!(disk.free_bytes().unwrap() > 2 << 20);
        assert!(write(2 << 20));
        assert!(!file.exists(), "the disk hides the folder from nobody else");
        assert!(disk.path().join("file").exists());
    }

    /// What root does where it may not mount, whoever runs this.
    #[test]
    fn a_disk_in_a_user_namespace_is_reached_from_outside() {
        let scratch = tempfile::tempdir().unwrap();
        let mut holder = hold(scratch.path(), 1 << 20, OWN_USERS_AND_MOUNTS).unwrap().expect("no user namespace");
        let folder = scratch.path().strip_prefix("/").unwrap();
        let inside = PathBuf::from(format!("/proc/{}/root", holder.id())).join(folder);
        std::fs::write(inside.join("file"), "a").unwrap();
        assert!(!scratch.path().join("file").exists());
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(!inside.exists());
    }
}
