/*
 * A FUSE file system that shows a folder and can hang: while the file HANG exists, every operation on it waits, as on an NFS mount whose
 * server is gone. The kernel has handed the request to this process by then, so the caller is in uninterruptible sleep (D state).
 *
 *     hangfs FOLDER HANG -f MOUNTPOINT
 */
#define FUSE_USE_VERSION 31
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *folder, *hang;

/* Waits while the file system hangs, then gives the path in the folder. */
#define AT(path) \
	char at[4096]; \
	while (access(hang, F_OK) == 0) usleep(10000); \
	snprintf(at, sizeof at, "%s%s", folder, path)
#define RESULT(call) return (call) < 0 ? -errno : 0

static void *fs_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
	(void)conn;
	cfg->attr_timeout = cfg->entry_timeout = cfg->negative_timeout = 0; /* or the kernel answers from its cache while we hang */
	cfg->direct_io = 1;
	return NULL;
}
static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi) { (void)fi; AT(path); RESULT(lstat(at, st)); }
static int fs_mkdir(const char *path, mode_t mode) { AT(path); RESULT(mkdir(at, mode)); }
static int fs_rmdir(const char *path) { AT(path); RESULT(rmdir(at)); }
static int fs_unlink(const char *path) { AT(path); RESULT(unlink(at)); }
static int fs_rename(const char *from, const char *to, unsigned int flags)
{
	char target[4096];
	AT(from);
	snprintf(target, sizeof target, "%s%s", folder, to);
	if (flags) return -EINVAL;
	RESULT(rename(at, target));
}
static int fs_readlink(const char *path, char *target, size_t size)
{
	AT(path);
	ssize_t length = readlink(at, target, size - 1);
	if (length < 0) return -errno;
	target[length] = 0;
	return 0;
}
static int fs_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset, struct fuse_file_info *fi,
		      enum fuse_readdir_flags flags)
{
	(void)offset, (void)fi, (void)flags;
	AT(path);
	DIR *dir = opendir(at);
	if (!dir) return -errno;
	for (struct dirent *entry; (entry = readdir(dir));) fill(buffer, entry->d_name, NULL, 0, 0);
	closedir(dir);
	return 0;
}
static int fs_open(const char *path, struct fuse_file_info *fi)
{
	AT(path);
	int fd = open(at, fi->flags);
	if (fd < 0) return -errno;
	fi->fh = fd;
	return 0;
}
static int fs_create(const char *path, mode_t mode, struct fuse_file_info *fi)
{
	AT(path);
	int fd = open(at, fi->flags | O_CREAT, mode);
	if (fd < 0) return -errno;
	fi->fh = fd;
	return 0;
}
static int fs_read(const char *path, char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
	AT(path);
	ssize_t count = pread(fi->fh, data, size, offset);
	return count < 0 ? -errno : count;
}
static int fs_write(const char *path, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
	AT(path);
	ssize_t count = pwrite(fi->fh, data, size, offset);
	return count < 0 ? -errno : count;
}
static int fs_release(const char *path, struct fuse_file_info *fi) { (void)path; close(fi->fh); return 0; }
static int fs_chmod(const char *path, mode_t mode, struct fuse_file_info *fi) { (void)fi; AT(path); RESULT(chmod(at, mode)); }
static int fs_truncate(const char *path, off_t size, struct fuse_file_info *fi) { (void)fi; AT(path); RESULT(truncate(at, size)); }

int main(int argc, char **argv)
{
	static const struct fuse_operations operations = {
		.init = fs_init, .getattr = fs_getattr, .mkdir = fs_mkdir, .rmdir = fs_rmdir, .unlink = fs_unlink, .rename = fs_rename,
		.readlink = fs_readlink, .readdir = fs_readdir, .open = fs_open, .create = fs_create, .read = fs_read,
		.write = fs_write, .release = fs_release, .chmod = fs_chmod, .truncate = fs_truncate,
	};
	if (argc < 5) return fprintf(stderr, "usage: hangfs FOLDER HANG -f MOUNTPOINT\n"), 2;
	folder = argv[1];
	hang = argv[2];
	argv[2] = argv[0];
	return fuse_main(argc - 2, argv + 2, &operations, NULL);
}
