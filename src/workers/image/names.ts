/**
 * File names are bytes on Linux, and an archive may hold any. Inside this folder a path is a string with one byte per character
 * (latin1); `native` makes of it what Node's fs and sys/attributes.ts take.
 */

/** The plain string when it is ASCII (by far the fastest), else its bytes. */
export function native(path: string): string | Buffer {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a test for ASCII
  return /^[\x00-\x7f]*$/.test(path) ? path : Buffer.from(path, 'latin1');
}

/** A normal string (UTF-16, as main gives paths) with one byte per character. */
export function toBytes(path: string): string {
  return Buffer.from(path, 'utf8').toString('latin1');
}

/** The components of a path, cleaned as text: no empty ones, no `.`, and `..` never above the start. */
export function components(path: string): string[] {
  const parts: string[] = [];
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') parts.pop();
    else parts.push(part);
  }
  return parts;
}
