// A capability is taken whole or not at all, and who forges one learns nothing from the answer.
import { base64url } from 'jose'
import { describe, expect, test } from 'vitest'
import { capabilityVerifier } from '../../gpu-backend/http/capability.ts'
import { claimsOf, mint, type Registered, SECRET } from './mint.ts'

const BASE = 'b'.repeat(64)
const NOW_S = 1_800_000_000
const verify = capabilityVerifier(SECRET, BASE, () => new Date(NOW_S * 1000))
const claims = claimsOf(BASE, { adapter: 'a'.repeat(64) })
const token = (given: Registered = {}, of: object = claims): Promise<string> => mint(of, { iatS: NOW_S, ...given })
const without = (claim: string): object => Object.fromEntries(Object.entries(claims).filter(([key]) => key !== claim))

test('a valid one gives its claims', async () => {
  expect(await verify(`Bearer ${await token()}`)).toEqual(claims)
})

test('one may be five seconds old or early on another clock', async () => {
  await verify(`Bearer ${await token({ iatS: NOW_S - 63 })}`)
  await verify(`Bearer ${await token({ iatS: NOW_S + 4 })}`)
})

describe('refused with the same words', () => {
  const encode = (value: object): string => base64url.encode(JSON.stringify(value))
  const body = {
    ...claims,
    iss: 'sidepath-gateway',
    aud: 'sidepath-backend',
    iat: NOW_S,
    exp: NOW_S + 60,
    jti: crypto.randomUUID(),
  }
  const tampered = async (): Promise<string> => {
    const [head, , signature] = (await token()).split('.')
    return `${head}.${encode({ ...body, tenant: 'other' })}.${signature}`
  }
  const cases: [string, () => string | Promise<string> | undefined][] = [
    ['none at all', () => undefined],
    ['no token', () => 'Bearer '],
    ['another scheme', async () => `Basic ${await token()}`],
    ['garbage', () => 'Bearer a.b.c'],
    ['a very long one', () => `Bearer ${'a'.repeat(10_000)}`],
    ['alg none', () => `Bearer ${encode({ alg: 'none' })}.${encode(body)}.`],
    ['another alg of the same secret', async () => `Bearer ${await token({ alg: 'HS512' })}`],
    ['another secret', async () => `Bearer ${await token({ secret: 'another secret, that is also long enough' })}`],
    ['tampered claims', async () => `Bearer ${await tampered()}`],
    ['expired', async () => `Bearer ${await token({ iatS: NOW_S - 66 })}`],
    ['issued in the future', async () => `Bearer ${await token({ iatS: NOW_S + 6 })}`],
    ['too long a life', async () => `Bearer ${await token({ lifeS: 61 })}`],
    ['no life at all', async () => `Bearer ${await token({ lifeS: 0 })}`],
    ['another issuer', async () => `Bearer ${await token({ iss: 'somebody' })}`],
    ['another audience', async () => `Bearer ${await token({ aud: 'somebody' })}`],
    ['an id that is no UUID', async () => `Bearer ${await token({ jti: '1' })}`],
    ['another base', async () => `Bearer ${await token({}, { ...claims, base: 'c'.repeat(64) })}`],
    ['an unknown act', async () => `Bearer ${await token({}, { ...claims, act: 'all' })}`],
    ['an adapter that is no digest', async () => `Bearer ${await token({}, { ...claims, adapter: '../x' })}`],
    ...Object.keys(claims).map((claim): [string, () => Promise<string>] => [
      `without ${claim}`,
      async () => `Bearer ${await token({}, without(claim))}`,
    ]),
  ]
  test.each(cases)('%s', async (_, authorization) => {
    await expect(verify(await authorization())).rejects.toMatchObject({
      code: 'capability_invalid',
      message: 'capability missing, expired or not valid',
    })
  })
})

describe('the secret', () => {
  test.each(['', 'short', 'x'.repeat(31)])('of %j is refused', (secret) => {
    expect(() => capabilityVerifier(secret, BASE)).toThrow('at least 32')
  })

  test('is measured in bytes', () => {
    expect(() => capabilityVerifier('é'.repeat(16), BASE)).not.toThrow()
  })
})
