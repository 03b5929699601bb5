//! The system calls that neither the standard library nor rustix offers in the form needed here.
//! This file alone is `unsafe`; each use says why it is sound.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

pub use libc::{
    CLONE_FS, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS, MNT_DETACH, MS_BIND,
    MS_NODEV, MS_NOEXEC, MS_NOSUID,
};

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path with a NUL"))
}

/// Gives the calling thread namespaces (or a working directory) of its own.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the flags used here never unshare the table of descriptors, which is what would
    // break what the rest of the program believes of them.
    checked(unsafe { libc::unshare(flags & !libc::CLONE_FILES) }).map(drop)
}

/// mount(2).
pub fn mount(
    source: &Path,
    target: &Path,
    kind: &str,
    flags: libc::c_ulong,
    data: &str,
) -> io::Result<()> {
    let (source, target) = (text(source)?, text(target)?);
    let plain = |text: &str| CString::new(text).map_err(io::Error::other);
    let (kind, data) = (plain(kind)?, plain(data)?);
    // SAFETY: four strings that end in NUL and outlive the call.
    checked(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })
    .map(drop)
}

/// Unmounts, also what is busy: it goes when its last user does.
pub fn unmount(target: &Path) -> io::Result<()> {
    let target = text(target)?;
    // SAFETY: a string that ends in NUL and outlives the call.
    checked(unsafe { libc::umount2(target.as_ptr(), MNT_DETACH) }).map(drop)
}

fn v4(address: &libc::sockaddr_in) -> SocketAddr {
    let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
    SocketAddr::from((ip, u16::from_be(address.sin_port)))
}

/// Lets [`recv_original`] tell where datagrams were going.
pub fn want_original_destination(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int, whose address and size are given.
    checked(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_RECVORIGDSTADDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// The next datagram: its length, who sent it and where it was going.
pub fn recv_original(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, SocketAddr)> {
    // SAFETY: all three are plain data, for which zeros are valid.
    let (mut from, mut message, mut control) = unsafe {
        (
            std::mem::zeroed::<libc::sockaddr_in>(),
            std::mem::zeroed::<libc::msghdr>(),
            std::mem::zeroed::<[u64; 16]>(),
        )
    };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in the message leads to memory of the size that is given beside it,
    // and all of it outlives the call.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled the message; its own macros walk the control data within the
    // length that it wrote, and a record of this kind holds a sockaddr_in, read unaligned.
    let to = unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        let mut found = None;
        while !header.is_null() {
            let kind = ((*header).cmsg_level, (*header).cmsg_type);
            if kind == (libc::SOL_IP, libc::IP_ORIGDSTADDR) {
                found = Some(libc::CMSG_DATA(header).cast::<libc::sockaddr_in>().read_unaligned());
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        found
    };
    let to = to.ok_or_else(|| io::Error::other("a datagram without its destination"))?;
    Ok((len, v4(&from), v4(&to)))
}

/// Something that owns one descriptor, always the same.
pub trait Descriptor: AsRawFd {}

impl Descriptor for File {}
impl Descriptor for socket2::Socket {}

/// Lets the runtime wait for a descriptor.
pub fn watched<T: Descriptor>(
    inner: T,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    // SAFETY: the trait is implemented only for what owns its descriptor and keeps it as long as
    // it lives, and the guard owns it in turn.
    unsafe { tokio::io::unix::AsyncFd::register_with_interest(inner, interest) }.map_err(Into::into)
}

/// A new terminal: the master's end and the slave's.
pub fn open_terminal() -> io::Result<(File, File)> {
    let open = |path: &str| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC);
        options.open(path)
    };
    let master = open("/dev/ptmx")?;
    let unlock: libc::c_int = 0;
    let mut number: libc::c_uint = 0;
    // SAFETY: the first takes a pointer to an int, the second fills one.
    unsafe {
        checked(libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock))?;
        checked(libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number))?;
    }
    let slave = open(&format!("/dev/pts/{number}"))?;
    Ok((master, slave))
}

/// Lets a terminal carry bytes as they are: nothing is echoed, no line is edited.
pub fn make_raw(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: termios is plain data, filled by the first call and only then used.
    unsafe {
        let mut settings = std::mem::zeroed::<libc::termios>();
        checked(libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings))?;
        libc::cfmakeraw(&raw mut settings);
        checked(libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, &raw const settings)).map(drop)
    }
}

/// Tells a terminal its size.
pub fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request takes a pointer to a winsize.
    checked(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
        .map(drop)
}

/// Lets a child begin a session whose terminal is its standard input.
pub fn with_terminal(command: &mut std::process::Command) -> &mut std::process::Command {
    // SAFETY: between fork and exec only two system calls are made, which allocate nothing.
    unsafe {
        command.pre_exec(|| {
            checked(libc::setsid())?;
            checked(libc::ioctl(0, libc::TIOCSCTTY, 0)).map(drop)
        })
    }
}

/// Lets a child begin a session of its own, out of reach of its parent's terminal.
pub fn in_own_session(command: &mut std::process::Command) -> &mut std::process::Command {
    // SAFETY: between fork and exec only one system call is made, which allocates nothing.
    unsafe { command.pre_exec(|| checked(libc::setsid()).map(drop)) }
}

/// Whether a file stands for a namespace, so that it was mounted since the machine started.
pub fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|found| found.f_type == NSFS_MAGIC)
}

/// Whether cgroups are those of version 2 alone.
pub fn has_unified_cgroups() -> bool {
    const CGROUP2_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == CGROUP2_MAGIC)
}

/// Enters a namespace of the network with the calling thread.
pub fn enter_network(namespace: impl AsFd) -> io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(Into::into)
}
