/** What a registry says about a refusal, in one line for an error message. */

const MAX_WORDS = 200;

/**
 * The codes and messages of the distribution spec's error list, or the beginning of any other body; "" for an empty
 * one.
 */
export function reasonIn(body: Uint8Array): string {
  const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString('utf8').trim();
  if (text === '') return '';
  return errorList(text) ?? plainText(text);
}

function errorList(text: string): string | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined; // a proxy's page
  }
  const { errors, message, error, details } = (json ?? {}) as Record<string, unknown>;
  const list = Array.isArray(errors) ? errors : [];
  const words = list.map((item: unknown) => {
    const { code, message: said, detail } = (item ?? {}) as Record<string, unknown>;
    return [code, said, typeof detail === 'string' ? detail : undefined]
      .filter((part) => part !== undefined && part !== '')
      .join(': ');
  });
  const found = words.filter((part) => part !== '').join('; ');
  if (found !== '') return found;
  // Token servers (RFC 6749 5.2) and some registries say it in one field.
  const one = [error, message, details].filter((part) => typeof part === 'string' && part !== '');
  return one.length > 0 ? one.join(': ') : undefined;
}

function plainText(text: string): string {
  const title = /<title[^>]*>([^<]*)<\/title>/i.exec(text)?.[1];
  const words = (title ?? text.replace(/<[^>]*>/g, ' ')).replace(/\s+/g, ' ').trim();
  return words.length > MAX_WORDS ? `${words.slice(0, MAX_WORDS)}…` : words;
}

/**
 * An answer that has what was asked for. Registries and proxies in front of them use more than 200 (203 when they
 * changed it, 201 when they had to fetch it first), and Go's clients take any of them.
 */
export function isSuccess(status: number): boolean {
  return status >= 200 && status < 300;
}
