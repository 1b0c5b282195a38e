/**
 * An image whose layers hide, replace and link in all the ways that the image spec has, and what a mounted file system
 * shows of it.
 */
import { lstatSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { getXattr, listXattrs } from '../../src/sys/attributes.ts';
import type { FakeRegistries } from './fake-registry.ts';
import { buildImage, digestOf, MANIFEST } from './push.ts';
import { tarball } from './tarball.ts';

const capability = Buffer.from('0100000200040000000000000000000000000000', 'hex');
/** Three archives, bottom first. */
export const LAYERS = [
  tarball([
    { path: 'd/', kind: 'directory', mode: 0o1777, uid: 5, gid: 6 },
    { path: 'd/stays', content: 'below', pax: { 'SCHILY.xattr.user.note': 'kept' } },
    { path: 'd/goes', content: 'below' },
    { path: 'd/replaced', content: 'below' },
    { path: 'd/gone/', kind: 'directory' },
    { path: 'd/gone/deep/', kind: 'directory' },
    { path: 'd/gone/deep/x', content: 'x' },
    { path: 'd/file-to-folder', content: 'x' },
    { path: 'd/folder-to-file/', kind: 'directory' },
    { path: 'd/folder-to-file/x', content: 'x' },
    { path: 'd/link-to-folder', kind: 'symlink', link: '/d/opaque' },
    { path: 'd/opaque/', kind: 'directory' },
    { path: 'd/opaque/old', content: 'x' },
    { path: 'd/back/', kind: 'directory', mode: 0o700 },
    { path: 'd/back/old', content: 'x' },
    { path: 'd/shared', content: 'linked', mode: 0o640, uid: 7, gid: 8 },
    { path: 'd/pair', kind: 'hardlink', link: 'd/shared' },
    { path: 'implied/kept/', kind: 'directory', mode: 0o751, uid: 9 },
    { path: 'etc/passwd', content: 'app:x:4242:4343::/:/bin/sh\n' },
  ]),
  tarball([
    { path: 'd/.wh.goes' },
    { path: 'd/replaced', content: 'above', mode: 0o4755, mtime: 1_500_000_000 },
    { path: 'd/.wh.gone' },
    { path: 'd/.wh.not-there' },
    { path: 'd/file-to-folder/', kind: 'directory' },
    { path: 'd/file-to-folder/y', content: 'y' },
    { path: 'd/.wh.folder-to-file' },
    { path: 'd/folder-to-file', content: 'now a file' },
    { path: 'd/link-to-folder/', kind: 'directory' },
    { path: 'd/link-to-folder/z', content: 'z' },
    { path: 'd/opaque/', kind: 'directory', mode: 0o711 },
    { path: 'd/opaque/new', content: 'n' },
    { path: 'd/opaque/.wh..wh..opq' },
    { path: 'd/.wh.back' },
    { path: 'd/back/', kind: 'directory', mode: 0o755 },
    { path: 'd/back/new', content: 'n' },
    { path: 'd/link', kind: 'hardlink', link: 'd/shared' },
    { path: 'd/symbolic', kind: 'symlink', link: 'stays', mtime: 1_400_000_000 },
    { path: 'd/null', kind: 'char', major: 1, minor: 3, mode: 0o666 },
    { path: 'd/pipe', kind: 'fifo' },
    { path: 'd/é', content: 'name' },
    { path: 'd/capable', content: 'x', mode: 0o755, pax: { 'SCHILY.xattr.security.capability': capability } },
    { path: 'implied/kept/more/deep', content: 'x' },
  ]),
  tarball([
    { path: 'd/goes', content: 'back again' },
    { path: 'd/opaque/third', content: '3' },
    { path: 'd/.wh.pipe' },
  ]),
];

/** Serves an image of these layers under every name; gives the name of the registry. */
export async function serveLayers(registries: FakeRegistries, layers: Buffer[] = LAYERS): Promise<string> {
  const image = buildImage({ layers, config: { User: 'app' } });
  const server = createServer((request, response) => {
    const digest = /\/blobs\/([^?]+)/.exec(request.url ?? '')?.[1];
    const body = digest === undefined ? image.body : image.blobs.get(digest);
    if (!body) return void response.writeHead(404).end();
    const type = digest === undefined ? MANIFEST : 'application/octet-stream';
    const headers = { 'content-type': type, 'content-length': body.length, 'docker-content-digest': digestOf(body) };
    response.writeHead(200, headers);
    response.end(request.method === 'HEAD' ? undefined : body);
  });
  return registries.host(`http://${await registries.listen(server)}`);
}

/** Every entry below a folder, with all that a container can see of it. */
export function seen(root: string): string[] {
  const found: string[] = [];
  /** The first name of each file: files of a tree of hard links have further names outside. */
  const first = new Map<string, string>();
  const walk = (path: string) => {
    for (const entry of readdirSync(join(root, path)).sort()) {
      const at = join(path, entry);
      const stats = lstatSync(join(root, at));
      const kind = stats.isDirectory() ? 'd' : stats.isSymbolicLink() ? 'l' : stats.isFile() ? 'f' : `n${stats.rdev}`;
      const xattrs = listXattrs(join(root, at))
        .filter((one) => !one.startsWith('trusted.'))
        .map((one) => `${one}=${getXattr(join(root, at), one, 100)?.toString('hex')}`);
      const content = stats.isFile()
        ? readFileSync(join(root, at), 'latin1')
        : stats.isSymbolicLink()
          ? readlinkSync(join(root, at))
          : '';
      // On an overlay over several file systems two files may have one number, each on a device of its own.
      const number = `${stats.dev}:${stats.ino}`;
      const twin = stats.isFile() ? (first.get(number) ?? '') : '';
      if (stats.isFile() && twin === '') first.set(number, at);
      // Only the times that the archive gives: an implied folder has those of its making.
      const time = stats.isDirectory() ? '' : Math.floor(stats.mtimeMs / 1000);
      const { mode, uid, gid } = stats;
      found.push([kind, at, mode.toString(8), uid, gid, time, twin, content, ...xattrs].join(' '));
      if (stats.isDirectory()) walk(at);
    }
  };
  walk('');
  return found;
}
