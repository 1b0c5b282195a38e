/*
 * What a pull cannot do without, and nothing else: one layer from a registry on loopback to the disk, in one pass, with
 * both digests, each file made by the calls that Sluice makes. Loaded into a process of Node, whose zlib and OpenSSL it
 * uses, since they are Sluice's own (image-floor-process.ts). It reads what image-server.ts makes: plain names, folders
 * before what is in them, no attributes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define INPUT (256 << 10)
#define OUTPUT (128 << 10)
#define BLOCK 512
#define START_WRITING (4 << 20)
#define MAX_FOLDERS 4096

enum { WRONG_ANSWER = -1000, WRONG_DIGEST, WRONG_STREAM, WRONG_ARCHIVE };

struct folder {
	char name[101];
	time_t mtime;
};

struct layer {
	int root;
	/* The file that is being written: its bytes that are still to come, and how far the kernel writes it already. */
	int file;
	unsigned long left, done, started;
	time_t mtime;
	unsigned padding;
	/* A header whose bytes are not complete yet. */
	unsigned char header[BLOCK];
	unsigned filled;
	int ended;
	struct folder *folders;
	int count;
};

static unsigned long octal(const unsigned char *field, int length)
{
	unsigned long value = 0;
	for (int i = 0; i < length && field[i] >= '0' && field[i] <= '7'; i++)
		value = value * 8 + (field[i] - '0');
	return value;
}

static int end_of_file(struct layer *layer)
{
	struct timespec times[2] = {{.tv_sec = layer->mtime}, {.tv_sec = layer->mtime}};
	struct stat found;
	if (futimens(layer->file, times) || fstat(layer->file, &found) || close(layer->file))
		return -errno;
	layer->file = -1;
	return 0;
}

static int begin(struct layer *layer, const unsigned char *header)
{
	unsigned sum = 8 * ' ';
	int zero = 1;
	for (int i = 0; i < BLOCK; i++) {
		if (header[i])
			zero = 0;
		if (i < 148 || i >= 156)
			sum += header[i];
	}
	if (zero) {
		layer->ended = 1;
		return 0;
	}
	if (sum != octal(header + 148, 8))
		return WRONG_ARCHIVE;
	char name[101];
	memcpy(name, header, 100);
	name[100] = 0;
	mode_t mode = octal(header + 100, 8);
	if (header[156] == '5') {
		if (layer->count == MAX_FOLDERS)
			return WRONG_ARCHIVE;
		struct folder *folder = &layer->folders[layer->count++];
		strcpy(folder->name, name);
		folder->mtime = octal(header + 136, 12);
		return mkdirat(layer->root, name, mode) ? -errno : 0;
	}
	if (header[156] != '0')
		return WRONG_ARCHIVE;
	layer->file = openat(layer->root, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (layer->file < 0)
		return -errno;
	layer->left = octal(header + 124, 12);
	layer->padding = -layer->left & (BLOCK - 1);
	layer->done = layer->started = 0;
	layer->mtime = octal(header + 136, 12);
	return layer->left ? 0 : end_of_file(layer);
}

static int unpack(struct layer *layer, const unsigned char *data, unsigned long size)
{
	while (size > 0 && !layer->ended) {
		unsigned long take;
		int error = 0;
		if (layer->left) {
			take = size < layer->left ? size : layer->left;
			if (pwrite(layer->file, data, take, layer->done) != (ssize_t)take)
				return -errno;
			layer->left -= take;
			layer->done += take;
			if (layer->done - layer->started >= START_WRITING) {
				sync_file_range(layer->file, layer->started, layer->done - layer->started, SYNC_FILE_RANGE_WRITE);
				layer->started = layer->done;
			}
			if (!layer->left)
				error = end_of_file(layer);
		} else if (layer->padding) {
			take = size < layer->padding ? size : layer->padding;
			layer->padding -= take;
		} else if (!layer->filled && size >= BLOCK) {
			take = BLOCK;
			error = begin(layer, data);
		} else {
			take = size < BLOCK - layer->filled ? size : BLOCK - layer->filled;
			memcpy(layer->header + layer->filled, data, take);
			layer->filled += take;
			if (layer->filled == BLOCK) {
				layer->filled = 0;
				error = begin(layer, layer->header);
			}
		}
		if (error)
			return error;
		data += take;
		size -= take;
	}
	return 0;
}

static int compare(EVP_MD_CTX *digest, const char *expected)
{
	unsigned char bytes[EVP_MAX_MD_SIZE];
	unsigned length = 0;
	char hex[2 * EVP_MAX_MD_SIZE + 1];
	EVP_DigestFinal_ex(digest, bytes, &length);
	for (unsigned i = 0; i < length; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	return strcmp(hex, expected) ? WRONG_DIGEST : 0;
}

/* Asks for the blob; the length of its answer, and what of the body has come with the head at the end of `buffer`. */
static long request(int sock, const char *path, unsigned char *buffer, long *rest)
{
	char text[512];
	int length = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: registry\r\nConnection: close\r\n\r\n", path);
	if (send(sock, text, length, MSG_NOSIGNAL) != length)
		return -errno;
	long have = 0;
	for (;;) {
		ssize_t got = recv(sock, buffer + have, 4096 - 1 - have, 0);
		if (got <= 0)
			return WRONG_ANSWER;
		have += got;
		buffer[have] = 0;
		char *end = strstr((char *)buffer, "\r\n\r\n");
		if (!end)
			continue;
		char *size = strcasestr((char *)buffer, "\r\ncontent-length:");
		if (strncmp((char *)buffer, "HTTP/1.1 200", 12) || !size)
			return WRONG_ANSWER;
		long total = atol(size + 17);
		*rest = have - (end + 4 - (char *)buffer);
		memmove(buffer, end + 4, *rest);
		return total;
	}
}

/*
 * The layer at `path` of the registry on this port into `dir`, which is made. Digests without their algorithm, which is
 * sha256. 0, an error number below 0, or one of those above.
 */
int floor_fetch_layer(int port, const char *path, const char *dir, const char *digest, const char *diff_id)
{
	unsigned char *input = malloc(INPUT), *output = malloc(OUTPUT);
	struct layer layer = {.root = -1, .file = -1, .folders = malloc(MAX_FOLDERS * sizeof(struct folder))};
	EVP_MD_CTX *blob = EVP_MD_CTX_new(), *archive = EVP_MD_CTX_new();
	z_stream stream = {0};
	int error = WRONG_ANSWER;
	EVP_DigestInit_ex(blob, EVP_sha256(), NULL);
	EVP_DigestInit_ex(archive, EVP_sha256(), NULL);
	inflateInit2(&stream, 15 + 16);

	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct timeval patience = {.tv_sec = 60};
	int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
	if (connect(sock, (struct sockaddr *)&address, sizeof address) || mkdir(dir, 0700) ||
	    (layer.root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
		error = -errno;
		goto out;
	}
	long have = 0, left = request(sock, path, input, &have);
	if (left < 0) {
		error = left;
		goto out;
	}
	while (left > 0) {
		if (have == 0) {
			have = recv(sock, input, INPUT, 0);
			if (have <= 0)
				goto out;
		}
		left -= have;
		EVP_DigestUpdate(blob, input, have);
		stream.next_in = input;
		stream.avail_in = have;
		have = 0;
		do {
			stream.next_out = output;
			stream.avail_out = OUTPUT;
			int state = inflate(&stream, Z_NO_FLUSH);
			if (state != Z_OK && state != Z_STREAM_END && state != Z_BUF_ERROR) {
				error = WRONG_STREAM;
				goto out;
			}
			long size = OUTPUT - stream.avail_out;
			EVP_DigestUpdate(archive, output, size);
			error = unpack(&layer, output, size);
			if (error)
				goto out;
		} while (stream.avail_out == 0);
	}
	error = compare(blob, digest);
	if (!error)
		error = compare(archive, diff_id);
	for (int i = layer.count - 1; i >= 0 && !error; i--) {
		struct timespec times[2] = {{.tv_sec = layer.folders[i].mtime}, {.tv_sec = layer.folders[i].mtime}};
		if (utimensat(layer.root, layer.folders[i].name, times, 0))
			error = -errno;
	}
out:
	if (layer.file >= 0)
		close(layer.file);
	if (layer.root >= 0)
		close(layer.root);
	close(sock);
	inflateEnd(&stream);
	EVP_MD_CTX_free(blob);
	EVP_MD_CTX_free(archive);
	free(layer.folders);
	free(input);
	free(output);
	return error;
}
