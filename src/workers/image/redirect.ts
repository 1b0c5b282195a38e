const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** What another host may see; hosts.toml lets users put secrets under any name. */
const FOR_ANYBODY = new Set(['accept', 'accept-encoding', 'range', 'user-agent']);

export interface Place {
  url: string;
  headers: Record<string, string>;
}

/**
 * Where an answer sends the asker, and with which headers: another host gets no secrets (RFC 9110 15.4), nor does a plain connection
 * after a secure one. Undefined when the answer is no redirection. `refuse` makes the error for a bad one; `hops` were followed before.
 */
export function redirection(
  from: Place,
  { status, location, hops }: { status: number; location: string | undefined; hops: number },
  refuse: (message: string) => Error,
): Place | undefined {
  if (!REDIRECTS.has(status) || location === undefined) return undefined;
  const here = new URL(from.url);
  if (hops === MAX_REDIRECTS) throw refuse(`${here.host} redirects more than ${MAX_REDIRECTS} times`);
  if (!URL.canParse(location, from.url)) throw refuse(`${here.host} redirects to ${JSON.stringify(location)}`);
  const next = new URL(location, from.url);
  if (next.protocol !== 'http:' && next.protocol !== 'https:')
    throw refuse(`${here.host} redirects to ${next.protocol}`);
  const stays = next.host === here.host && !(here.protocol === 'https:' && next.protocol === 'http:');
  const visible = Object.entries(from.headers).filter(([name]) => stays || FOR_ANYBODY.has(name.toLowerCase()));
  return { url: next.href, headers: Object.fromEntries(visible) };
}
