/** A tar archive (ustar, POSIX.1-1988) of small files, made in memory. */

export interface TarEntry {
  name: string;
  data: Buffer;
}

const BLOCK = 512;
const MAX_NAME = 100;

/** `mtime` in seconds since 1970. Throws RangeError for a name that ustar's first field does not hold. */
export function tar(entries: readonly TarEntry[], mtime: number): Buffer {
  const blocks = entries.flatMap(({ name, data }) => {
    const padding = Buffer.alloc((BLOCK - (data.length % BLOCK)) % BLOCK);
    return [header(name, data.length, mtime), data, padding];
  });
  return Buffer.concat([...blocks, Buffer.alloc(2 * BLOCK)]);
}

function header(name: string, size: number, mtime: number): Buffer {
  if (Buffer.byteLength(name) > MAX_NAME) throw new RangeError(`${name}: longer than ${MAX_NAME} bytes`);
  const block = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, length: number) =>
    block.write(`${value.toString(8).padStart(length - 1, '0')}\0`, at, 'latin1');
  block.write(name, 0);
  octal(0o600, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(size, 124, 12);
  octal(mtime, 136, 12);
  block.write('        ', 148, 'latin1'); // the checksum counts its own field as blanks
  block.write('0', 156, 'latin1');
  block.write('ustar\0' + '00', 257, 'latin1');
  const sum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return block;
}
