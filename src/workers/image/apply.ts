/**
 * Unpacks the entries of a layer's archive into a folder that becomes an overlayfs layer. All calls are synchronous: a
 * small file costs a few system calls, and libuv's pool would cost more than they do. (Other threads for layers may
 * make some: small-files.ts.)
 *
 * Rules: OCI image-spec layer.md (whiteouts, which never hide what this layer itself brings), overlayfs.rst of the
 * kernel (the form of a whiteout and an opaque folder), containerd's pkg/archive for what layers in the wild rely on.
 */
import {
  chmodSync,
  constants,
  lchownSync,
  linkSync,
  lstatSync,
  openSync,
  type Stats,
  symlinkSync,
  unlinkSync,
} from 'node:fs';
import { makeNode, setTimes, type TimeSpec } from '../../sys/attributes.ts';
import type { Usage } from '../measure-tree.ts';
import { components, native } from './byte-paths.ts';
import { setXattrs, timesOf } from './entry-attributes.ts';
import type { FileQueue } from './file-queue.ts';
import { invalid } from './invalid.ts';
import { LargeFile } from './large-file.ts';
import { hasMark, isWhiteout, makeOpaque, makeWhiteout, OPAQUE_MARK, WHITEOUT, type WhiteoutForm } from './opaque.ts';
import { look, makeFolder, Root } from './root.ts';
import { makeSmallFile, NEW_FILE, PERMISSIONS, SMALL, type SmallFile } from './small-file.ts';
import { SmallFiles } from './small-files.ts';
import { printable, type TarEntry, type TarSink } from './tar.ts';
import { removeTreeSync } from './tree.ts';

const AUFS_OWN = '.wh..wh.';

const MAX_SCANNED = 50_000_000;
const KIND = { char: constants.S_IFCHR, block: constants.S_IFBLK, fifo: constants.S_IFIFO } as const;

/** System errors whose cause is the archive, not this machine. */
const IMAGE_FAULTS = new Set(['ENAMETOOLONG', 'ELOOP', 'ENOTDIR', 'EISDIR', 'EMLINK', 'EEXIST', 'ENOENT', 'EINVAL']);

/** New files belong to the daemon's user. */
const OWN_UID = process.geteuid?.() ?? 0;
const OWN_GID = process.getegid?.() ?? 0;
const SETGID = 0o2000;

interface Target {
  /** Cleaned, relative to the root, after symbolic links in the folders above. */
  relative: string;
  path: string;
  base: string;
}

/** A small file whose bytes are not complete yet. */
interface Collected {
  entry: TarEntry;
  path: string;
  /** Undefined while none have come. Those that no piece brings are zeroes. */
  bytes: Buffer | undefined;
}

export class Applier implements TarSink {
  readonly #root: Root;
  /**
   * Folders that no entry has brought so far, only names below them: they inherit their attributes from the layers
   * below.
   */
  readonly implied = new Set<string>();
  /** Hard links to files of layers below: by the name of the link. */
  readonly lowerLinks = new Map<string, string>();
  /** Folders' times are set last, since every file that is made in a folder changes them. */
  readonly #folders = new Map<string, { atime: TimeSpec; mtime: TimeSpec }>();
  #file: { large: LargeFile; entry: TarEntry } | undefined;
  #small: Collected | undefined;
  readonly #smallFiles: SmallFiles;
  #name = '';
  /**
   * Some file may get blocks for its map of extents when it is written to the disk: its size on the disk is final only
   * then.
   */
  growsWhenWritten = false;
  /** Blocks and inodes of what was made so far, folders' blocks left out; undefined when only a walk can tell. */
  #used: Usage | undefined = { bytes: 0, inodes: 0 };
  /** Some folder has setgid, and passes its group on to new files. */
  #inherits = false;
  /** The folder of the last name, and its components: entries mostly follow one another in one. */
  #above: { folder: string; parts: readonly string[] } | undefined;
  /** Records of folders examined because a folder was replaced; an archive made for it could ask for billions. */
  #scanned = 0;

  readonly #form: WhiteoutForm;

  /**
   * `root` is an empty folder, its path with one byte per character. With a `queue`, threads that have nothing else to
   * do make some of the files.
   */
  constructor(root: string, form: WhiteoutForm = 'devices', queue?: FileQueue) {
    this.#form = form;
    this.#root = new Root(root, {
      make: (folder, found) => this.#implied(folder, found),
      before: (path) => this.#settleFor(path),
    });
    this.#smallFiles = new SmallFiles({
      queue,
      make: (file, data) => this.#makeSmall(file, data),
      onMade: (files, blocks) => this.#count(blocks, files),
    });
  }

  entry(entry: TarEntry): void {
    this.#name = entry.path;
    this.#guard(() => this.#entry(entry));
  }

  data(piece: Buffer, offset: number): void {
    const small = this.#small;
    if (small) {
      // Mostly all of it comes at once, and need not be kept.
      if (piece.length === small.entry.size) this.#guard(() => this.#finishSmall(small, piece));
      else {
        small.bytes ??= Buffer.alloc(small.entry.size);
        piece.copy(small.bytes, offset);
      }
      return;
    }
    const file = this.#file;
    if (!file) return; // a whiteout, or a record of aufs
    this.#guard(() => file.large.add(piece, offset));
  }

  end(): void {
    const small = this.#small;
    if (small) this.#guard(() => this.#finishSmall(small, small.bytes ?? Buffer.alloc(small.entry.size)));
    const file = this.#file;
    if (!file) return;
    this.#guard(() => this.#count(file.large.finish(this.#ownerOf(file.entry))));
    this.growsWhenWritten ||= file.large.growsWhenWritten;
    this.#file = undefined;
  }

  /** Called after the last entry: sets the folders' times, deepest first. */
  finish(): void {
    this.#guard(() => {
      this.#smallFiles.settle();
      for (const [relative, { atime, mtime }] of [...this.#folders].reverse()) {
        this.#name = relative;
        setTimes(native(this.#root.at(relative)), atime, mtime);
      }
    });
  }

  /**
   * What everything below the root occupies, as `du` counts; undefined when something was replaced, so that only a walk
   * can tell. Called after {@link finish}: it is half as expensive as a walk.
   */
  usage(): Usage | undefined {
    if (!this.#used) return undefined;
    const total = { ...this.#used };
    for (const folder of new Set([...this.#folders.keys(), ...this.implied])) {
      if (folder === '') continue;
      total.bytes += lstatSync(native(this.#root.at(folder))).blocks * 512;
      total.inodes++;
    }
    return total;
  }

  /** Also after an error: no file is open, and nothing is made any more. */
  close(): void {
    this.#file?.large[Symbol.dispose]();
    this.#file = undefined;
    this.#smallFiles[Symbol.dispose]();
  }

  #entry(entry: TarEntry): void {
    const { parts, base } = this.#split(entry.path);
    if (base === undefined) {
      if (entry.type !== 'directory') throw invalid(`the root of the layer is a ${entry.type}`);
      this.#setAttributes('', this.#root.path, entry);
      return;
    }
    // aufs keeps records of its own beside the files: folders like `.wh..wh.plnk`, with all below them.
    const special = entry.path.includes(WHITEOUT);
    if (special && base !== OPAQUE_MARK && [...parts, base].some((part) => part.startsWith(AUFS_OWN))) return;
    if (base.startsWith(WHITEOUT)) {
      if (this.#form === 'files') this.#used = undefined; // its marks have blocks or not, as the file system likes
      if (base === OPAQUE_MARK) makeOpaque(this.#root.at(this.#root.folder(parts)), this.#form);
      else this.#whiteout(parts, base.slice(WHITEOUT.length));
      return;
    }
    if (special && this.#form === 'files' && parts.some((part) => part.startsWith(WHITEOUT)))
      throw invalid(`${printable(entry.path)}: a folder has the name of a whiteout`);
    const target = this.#target(parts, base);
    if (this.lowerLinks.size > 0) this.lowerLinks.delete(target.relative); // an entry replaces what has its name
    switch (entry.type) {
      case 'directory':
        this.#directory(target, entry);
        return;
      case 'file':
        if (entry.size < SMALL && entry.xattrs.length === 0)
          this.#small = { entry, path: target.path, bytes: undefined };
        else this.#file = { large: this.#large(target.path, entry), entry };
        return;
      case 'hardlink':
        this.#hardlink(target, entry);
        return;
      case 'symlink':
        this.#clear(target.path);
        symlinkSync(native(entry.link), native(target.path));
        break;
      default:
        this.#clear(target.path);
        makeNode(native(target.path), KIND[entry.type] | 0o600, entry.major, entry.minor);
    }
    this.#setAttributes(target.relative, target.path, entry);
    this.#count(lstatSync(native(target.path)).blocks);
  }

  #count(blocks: number, inodes = 1): void {
    if (!this.#used) return;
    this.#used.bytes += blocks * 512;
    this.#used.inodes += inodes;
  }

  /** All bytes of a small file are there. */
  #finishSmall({ entry, path }: Collected, bytes: Buffer): void {
    this.#small = undefined;
    const file = { path, mode: entry.mode, owner: this.#ownerOf(entry), ...timesOf(entry) };
    const now = this.#form !== 'devices' || this.#root.leadsThrough(path);
    this.#smallFiles.add(file, bytes, { now });
  }

  #large(path: string, entry: TarEntry): LargeFile {
    const fd = this.#instead(path, () => openSync(native(path), NEW_FILE, entry.mode & PERMISSIONS));
    return new LargeFile(fd, path, entry);
  }

  #makeSmall(file: SmallFile, data: Buffer): number {
    this.#name = this.#relative(file.path); // it may have been left to others, some names ago
    return this.#instead(file.path, () => makeSmallFile(file, data));
  }

  /** Undefined where a new file gets what the entry says. */
  #ownerOf({ uid, gid }: TarEntry): SmallFile['owner'] {
    return uid !== OWN_UID || gid !== OWN_GID || this.#inherits ? { uid, gid } : undefined;
  }

  /** What is at this path, or not, must be known now. */
  #settleFor(path: string): void {
    if (this.#smallFiles.isComing(path)) this.#smallFiles.settle();
  }

  /** The {@link components} of a name, the last one as `base`; undefined for the root itself. */
  #split(path: string): { parts: readonly string[]; base: string | undefined } {
    const slash = path.lastIndexOf('/');
    const base = path.slice(slash + 1);
    if (slash < 0 || base === '' || base === '.' || base === '..') {
      const parts = components(path);
      return { base: parts.pop(), parts };
    }
    const folder = path.slice(0, slash);
    if (this.#above?.folder !== folder) this.#above = { folder, parts: components(folder) };
    return { parts: this.#above.parts, base };
  }

  #target(parts: readonly string[], base: string): Target {
    const folder = this.#root.folder(parts);
    const relative = folder === '' ? base : `${folder}/${base}`;
    const path = this.#root.at(relative);
    this.#settleFor(path);
    return { relative, path, base };
  }

  #directory(target: Target, entry: TarEntry): void {
    const there = look(target.path);
    if (!there?.isDirectory()) {
      if (there) this.#remove(target.path, there);
      makeFolder(target.path);
      // The whiteout said that the folder of the layers below is gone.
      if (there && isWhiteout(there)) makeOpaque(target.path);
    }
    this.#setAttributes(target.relative, target.path, entry);
  }

  /** Makes a new file at the path, in the place of what may have the name. */
  #instead(path: string, make: () => number): number {
    try {
      return make();
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      this.#clear(path);
      return make();
    }
  }

  #hardlink(target: Target, entry: TarEntry): void {
    const parts = components(entry.link);
    const base = parts.pop();
    if (base === undefined) throw invalid(`${printable(entry.path)}: a hard link to the root of the layer`);
    const source = this.#target(parts, base);
    const there = look(source.path);
    if (there ? isWhiteout(there) : this.#isMarked(source))
      throw invalid(`${printable(entry.path)}: hard link to ${printable(entry.link)}, which the layer removes`);
    if (!there) {
      // The file is in a layer below, if anywhere: overlayfs copies it up for link(2), and so does copyUp() later.
      this.#clear(target.path);
      this.lowerLinks.set(target.relative, this.lowerLinks.get(source.relative) ?? source.relative);
      return;
    }
    if (there.isDirectory())
      throw invalid(`${printable(entry.path)}: hard link to the folder ${printable(entry.link)}`);
    if (source.path === target.path) return;
    this.#clear(target.path);
    linkSync(native(source.path), native(target.path)); // link(2) does not follow a symbolic link
  }

  /** Hides `NAME` in the layers below; what this layer itself has under the name stays. */
  #whiteout(parts: readonly string[], base: string): void {
    if (base === '' || base === '.' || base === '..') throw invalid(`a whiteout of ${JSON.stringify(base)}`);
    const { path, relative } = this.#target(parts, base);
    if (this.lowerLinks.has(relative)) return;
    const there = look(path);
    const folder = path.slice(0, path.lastIndexOf('/'));
    if (this.#form === 'files')
      makeWhiteout(folder, base, 'files'); // whatever of the name stands beside it
    else if (there?.isDirectory()) makeOpaque(path);
    else if (!there) {
      makeWhiteout(folder, base, 'devices');
      this.#count(lstatSync(native(path)).blocks);
    }
  }

  #isMarked({ path, base }: Pick<Target, 'path' | 'base'>): boolean {
    return this.#form === 'files' && hasMark(path.slice(0, path.lastIndexOf('/')), base);
  }

  /** Makes a folder that a name needs and no entry has brought: root's with 0755, until attributes are inherited. */
  #implied(folder: string, found: Stats | undefined): void {
    const path = this.#root.at(folder);
    if (found && !isWhiteout(found)) throw invalid(`${printable(folder)} must be a folder and is something else`);
    if (found) {
      this.#used = undefined;
      unlinkSync(native(path));
    }
    makeFolder(path);
    chmodSync(native(path), 0o755); // whatever the daemon's umask is
    if (found) makeOpaque(path);
    else if (!this.#isMarked({ path, base: path.slice(path.lastIndexOf('/') + 1) })) this.implied.add(folder);
  }

  /** Removes whatever has the name. */
  #clear(path: string): void {
    const there = look(path);
    if (there) this.#remove(path, there);
  }

  #remove(path: string, there: Stats): void {
    this.#used = undefined;
    if (there.isDirectory()) {
      this.#smallFiles.settle(); // some may be below it
      removeTreeSync(path);
      this.#scanned += this.#folders.size + this.implied.size;
      if (this.#scanned > MAX_SCANNED) throw invalid('the layer replaces folders too often');
      const relative = this.#relative(path);
      for (const folders of [this.#folders, this.implied, this.lowerLinks]) {
        for (const folder of folders.keys()) {
          if (folder === relative || folder.startsWith(`${relative}/`)) folders.delete(folder);
        }
      }
    } else unlinkSync(native(path));
    if (there.isDirectory() || there.isSymbolicLink()) this.#root.forget();
  }

  #relative(path: string): string {
    return path.slice(this.#root.path.length + 1);
  }

  /**
   * Sets owner, mode, xattrs and times of everything but regular files; chown clears setuid and security.capability, so
   * it is first.
   */
  #setAttributes(relative: string, path: string, entry: TarEntry): void {
    // What is made in a folder takes after its setgid bit and its default ACL, which come behind its first files.
    if (entry.type === 'directory' && (entry.mode & SETGID || entry.xattrs.length > 0)) this.#smallFiles.settle();
    lchownSync(native(path), entry.uid, entry.gid);
    if (entry.type !== 'symlink') chmodSync(native(path), entry.mode);
    setXattrs(path, entry);
    if (entry.type === 'directory') {
      this.#inherits ||= (entry.mode & SETGID) !== 0;
      this.implied.delete(relative);
      this.#folders.delete(relative); // the last entry for a folder counts, and determines its place in the order
      this.#folders.set(relative, timesOf(entry));
    } else {
      const { atime, mtime } = timesOf(entry);
      setTimes(native(path), atime, mtime);
    }
  }

  #guard(work: () => void): void {
    try {
      work();
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== undefined && IMAGE_FAULTS.has(code)) {
        throw invalid(`${printable(this.#name)}: cannot be unpacked: ${(error as Error).message}`, error);
      }
      throw error;
    }
  }
}
