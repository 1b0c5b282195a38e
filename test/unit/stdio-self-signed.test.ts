import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import type { AddressInfo } from 'node:net';
import { test } from 'node:test';
import { connect, createServer } from 'node:tls';
import { selfSigned } from '../../src/workers/stdio/self-signed.ts';

test('a generated certificate is a valid one for the host, and TLS works with it', async () => {
  const { cert, key } = selfSigned('2001:db8::1:5');
  const parsed = new X509Certificate(cert);
  assert.ok(parsed.verify(parsed.publicKey));
  assert.equal(parsed.checkIP('127.0.0.1'), '127.0.0.1');
  assert.equal(parsed.checkIP('2001:db8::1:5'), '2001:db8::1:5');
  assert.equal(parsed.checkIP('2001:db8::1:6'), undefined);
  assert.equal(parsed.checkHost('localhost'), 'localhost');
  assert.equal(parsed.ca, false);
  assert.ok(parsed.validFromDate < new Date() && parsed.validToDate > new Date(Date.now() + 360 * 86_400_000));
  const server = createServer({ cert, key }, (socket) => socket.end('secret'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const client = connect({ host: '127.0.0.1', port, ca: cert });
  let text = '';
  for await (const chunk of client) text += chunk;
  server.close();
  assert.equal(text, 'secret');
});

test('certificates have different serial numbers', () => {
  const serials = Array.from({ length: 20 }, () => new X509Certificate(selfSigned('').cert).serialNumber);
  assert.equal(new Set(serials).size, 20);
  assert.ok(serials.every((serial) => serial.length === 32));
});
