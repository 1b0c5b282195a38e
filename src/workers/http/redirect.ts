const MAX_REDIRECTS = 10;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
/** Headers that any host may see; hosts.toml allows secrets under every other name. */
const FOR_EVERY_HOST = new Set(['accept', 'accept-encoding', 'range', 'user-agent']);

/** A request as redirects change it. */
export interface Target {
  method: 'GET' | 'HEAD' | 'POST';
  url: string;
  headers: Record<string, string>;
  body?: string;
}

/**
 * The request that follows an answer with `status` and `location`; undefined when the answer is not a redirect. Another
 * host, or plain http after https, gets neither the secret headers nor the body (RFC 9110 15.4; a token request's body
 * holds the password). A POST becomes a GET where browsers and Go make it one (301, 302, 303). `refuse` makes the error
 * for a redirect that cannot be followed; `hops` redirects were followed before.
 */
export function redirection(
  from: Target,
  { status, location, hops }: { status: number; location: string | undefined; hops: number },
  refuse: (message: string) => Error,
): Target | undefined {
  if (!REDIRECTS.has(status) || location === undefined) return undefined;
  const here = new URL(from.url);
  if (hops === MAX_REDIRECTS) throw refuse(`${here.host} redirects more than ${MAX_REDIRECTS} times`);
  if (!URL.canParse(location, from.url)) throw refuse(`${here.host} redirects to ${JSON.stringify(location)}`);
  const next = new URL(location, from.url);
  if (next.protocol !== 'http:' && next.protocol !== 'https:')
    throw refuse(`${here.host} redirects to ${next.protocol}`);
  const stays = next.host === here.host && !(here.protocol === 'https:' && next.protocol === 'http:');
  const becomesGet = from.method === 'POST' && status <= 303;
  if (from.method === 'POST' && !stays && !becomesGet)
    throw refuse(`${here.host} redirects a request that holds credentials to ${next.host}`);
  const keepsBody = from.body !== undefined && !becomesGet;
  const visible = Object.entries(from.headers).filter(([header]) => {
    const name = header.toLowerCase();
    if (name === 'content-type' && !keepsBody) return false;
    return stays || FOR_EVERY_HOST.has(name);
  });
  return {
    method: becomesGet ? 'GET' : from.method,
    url: next.href,
    headers: Object.fromEntries(visible),
    body: keepsBody ? from.body : undefined,
  };
}
