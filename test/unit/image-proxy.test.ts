import assert from 'node:assert/strict';
import { test } from 'node:test';
import { proxyFor } from '../../src/workers/http/proxy.ts';

const PROXY = 'http://proxy.test:3128/';

/** Whether a URL goes through the proxy, under this NO_PROXY. */
const isProxied = (url: string, noProxy: string) =>
  proxyFor(new URL(url), { HTTP_PROXY: PROXY, HTTPS_PROXY: PROXY, NO_PROXY: noProxy }) !== undefined;

test('NO_PROXY as Go reads it (golang.org/x/net/http/httpproxy)', () => {
  for (const [noProxy, url, proxied] of [
    ['', 'http://reg.test', true],
    ['', 'http://localhost:5000', false],
    ['', 'http://127.0.0.1:5000', false],
    ['', 'http://127.9.9.9', false],
    ['', 'http://[::1]:80', false],
    ['', 'http://[::ffff:127.0.0.1]/', false],
    ['', 'http://localhost.test', true],
    ['*', 'https://reg.test', false],
    ['a.test,*', 'https://reg.test', false],
    ['10.0.0.0/8', 'http://10.1.2.3', false],
    ['10.0.0.0/8', 'http://11.1.2.3', true],
    ['10.0.0.0/8', 'http://10.test', true],
    ['fd00::/8', 'http://[fd12::1]', false],
    ['10.1.2.3', 'http://10.1.2.3:5000', false],
    ['10.1.2.3:5000', 'http://10.1.2.3:5000', false],
    ['10.1.2.3:5000', 'http://10.1.2.3', true],
    ['[fd12::1]:80', 'http://[fd12::1]', false],
    ['fd12::1', 'http://[fd12::1]:99', false],
    ['zone.test', 'http://zone.test', false],
    ['zone.test', 'http://x.zone.test', false],
    ['zone.test', 'http://xzone.test', true],
    ['.zone.test', 'http://zone.test', true],
    ['.zone.test', 'http://x.zone.test', false],
    ['*.zone.test', 'http://zone.test', true],
    ['*.zone.test', 'http://x.y.zone.test', false],
    ['zone.test:443', 'https://zone.test', false],
    ['zone.test:443', 'http://zone.test', true],
    ['zone.test:5000', 'http://zone.test:5000', false],
    [' Zone.TEST , other', 'http://ZONE.test', false],
    ['zone.test', 'http://zone.test./', false],
    ['bücher.test', 'http://xn--bcher-kva.test', false],
    [',,:80,', 'http://reg.test', true],
    ['10.0.0.0/99', 'http://10.0.0.1', true],
  ] as const)
    assert.equal(isProxied(url, noProxy), proxied, `${url} with NO_PROXY=${noProxy}`);
});

test('the names of the variables, and forms of a proxy', () => {
  const of = (url: string, env: Record<string, string>) => proxyFor(new URL(url), env)?.href;
  assert.equal(of('http://reg.test', { HTTP_PROXY: 'proxy:3199' }), 'http://proxy:3199/');
  assert.equal(of('http://reg.test', { HTTP_PROXY: '10.0.0.1:3199' }), 'http://10.0.0.1:3199/');
  assert.equal(of('http://reg.test', { http_proxy: 'http://a:1' }), 'http://a:1/');
  assert.equal(of('http://reg.test', { HTTP_PROXY: 'http://b:1', http_proxy: 'http://a:1' }), 'http://b:1/');
  assert.equal(of('https://reg.test', { HTTP_PROXY: 'http://a:1' }), undefined, 'https has a proxy of its own');
  assert.equal(of('https://reg.test', { HTTPS_PROXY: 'http://u:p@a:1' }), 'http://u:p@a:1/');
  assert.equal(of('https://reg.test', { https_proxy: 'socks5://a:1080' }), 'socks5://a:1080');
  assert.equal(of('https://reg.test', { HTTPS_PROXY: '' }), undefined);
  assert.equal(of('http://reg.test', { HTTP_PROXY: 'http://a:1', no_proxy: 'reg.test' }), undefined);
  assert.throws(() => of('http://reg.test', { HTTP_PROXY: 'http://a b' }), {
    code: 'CONFIG_INVALID',
    message: /HTTP_PROXY="http:\/\/a b" is not the URL of a proxy/,
  });
});
