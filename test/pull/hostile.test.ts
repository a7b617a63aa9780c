// A Hub, or who stands in for it, that answers wrongly: every answer is refused with a typed error, and nothing that
// looks finished is left.
import { stat, writeFile } from 'node:fs/promises'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { PullCode } from '../../pull/errors.ts'
import { FILES, filesOf, type Pulling, startPulling, WEIGHTS, WEIGHTS_BYTES } from './pulling.ts'
import { entryOf, gitSha1, json, type Kind, REPO } from './stand-in.ts'

let pulling: Pulling
beforeEach(async () => {
  pulling = await startPulling()
})
afterEach(async () => {
  await expect(stat(pulling.out)).rejects.toThrow('ENOENT')
  await pulling[Symbol.asyncDispose]()
})

async function expectRefusal(code: PullCode, ...words: string[]): Promise<void> {
  const error = await pulling.refusal()
  expect([error.code, error.message]).toEqual([code, expect.stringContaining(words[0] ?? '')])
  for (const word of words) expect(error.message).toContain(word)
}

/** Answers every request of a kind. */
function answering(kind: Kind, answer: (response: ServerResponse, nth: number) => void): void {
  pulling.hub.intercept = (found, _, response, nth) => {
    if (found === kind) answer(response, nth)
    return found === kind
  }
}

describe('a status', () => {
  const cases: [number, PullCode, string, Record<string, string>][] = [
    [401, 'unauthorised', 'set HF_TOKEN', {}],
    [403, 'unauthorised', 'HF_TOKEN', {}],
    [403, 'unauthorised', 'accept the terms', { 'x-error-code': 'GatedRepo' }],
    [404, 'not-found', 'no such repository', {}],
    [404, 'not-found', 'no such revision', { 'x-error-code': 'RevisionNotFound' }],
    [400, 'hub-answer', '400', {}],
  ]
  it.each(cases)('%i is %s: %s', async (status, code, words, headers) => {
    answering('revision', (response) => response.writeHead(status, headers).end())
    await expectRefusal(code, REPO, words)
    expect(pulling.waits).toEqual([])
  })

  it.each([
    [429, 'rate-limited'],
    [500, 'hub-unavailable'],
    [503, 'hub-unavailable'],
    [408, 'hub-unavailable'],
  ] as const)('%i five times is %s, after waiting longer each time', async (status, code) => {
    answering('revision', (response) => response.writeHead(status).end())
    await expectRefusal(code, String(status))
    expect(pulling.waits).toEqual([1000, 2000, 4000, 8000])
  })

  it('429 with Retry-After is waited for as long as it says, within two minutes', async () => {
    const after = ['7', '99999', 'soon', '0']
    answering('tree', (response, nth) => response.writeHead(429, { 'retry-after': after[nth] ?? '1' }).end())
    await expectRefusal('rate-limited')
    expect(pulling.waits).toEqual([7000, 120_000, 4000, 0])
  })

  it('of the CDN is told apart from the file', async () => {
    answering('cdn', (response) => response.writeHead(403).end())
    await expectRefusal('unauthorised', '403')
  })
})

describe('a redirect', () => {
  it('in a circle ends', async () => {
    answering('resolve', (response) => response.writeHead(302, { location: '?again' }).end())
    await expectRefusal('redirect-refused', 'more than 5 times')
    expect(pulling.hub.seen.filter(({ kind }) => kind === 'resolve').length).toBeLessThanOrEqual(4 * 6)
  })

  it.each(['file:///etc/passwd', 'ftp://example.com/x', 'http://user:secret@127.0.0.1/', 'http://['])(
    'to %s is not followed',
    async (location) => {
      answering('cdn', (response) => response.writeHead(302, { location }).end())
      await expectRefusal('redirect-refused', 'no web address')
    },
  )

  it('without an address is refused', async () => {
    answering('cdn', (response) => response.writeHead(302).end())
    await expectRefusal('redirect-refused')
  })
})

describe('an answer of the API', () => {
  const sha = 'a'.repeat(40)
  it.each<[string, (response: ServerResponse) => void]>([
    ['that is HTML', (response) => response.end('<html>')],
    ['that is null', (response) => json(response, null)],
    ['without a commit', (response) => json(response, { id: REPO })],
    ['with a short commit', (response) => json(response, { id: REPO, sha: sha.slice(1) })],
    ['with a path as its commit', (response) => json(response, { id: REPO, sha: '../../x' })],
  ])('of a revision %s', async (_, answer) => {
    answering('revision', answer)
    await expectRefusal('hub-answer', REPO)
  })

  it('without an end is read up to a bound', async () => {
    const block = Buffer.alloc(1024 * 1024, ' ')
    answering('revision', (response) => {
      const more = () => {
        if (!response.destroyed) response.write(block, more)
      }
      more()
    })
    await expectRefusal('hub-answer', 'more than 16777216 bytes')
  })

  const file = entryOf('config.json', FILES['config.json']!)
  it.each<[string, unknown]>([
    ['null', null],
    ['an object', { error: 'x' }],
    ['a number', 7],
    ['numbers', [1, 2]],
    ['files without a digest', [{ type: 'file', path: 'config.json', size: 3 }]],
    ['a negative size', [{ ...file, size: -1 }]],
    ['half a byte', [{ ...file, size: 0.5 }]],
    ['a size as text', [{ ...file, size: '3' }]],
    ['a file of 500 TB', [{ ...file, size: 500e12 }]],
    ['a digest that is a path', [{ ...file, oid: '../x' }]],
    ['no path', [{ ...file, path: '' }]],
    ['an LFS digest of SHA-1', [{ ...file, lfs: { oid: sha, size: 3 } }]],
  ])('of a tree: %s', async (_, listed) => {
    pulling.hub.listing = () => listed
    await expectRefusal('hub-answer', REPO)
  })

  it('whose next page is on another host is not followed', async () => {
    answering('tree', (response) => {
      response.setHeader('link', `<${pulling.hub.cdnUrl}/api/models/x/y/tree/z>; rel="next"`)
      json(response, [])
    })
    await expectRefusal('hub-answer', 'another host')
  })

  it('whose pages never end is left', async () => {
    answering('tree', (response) => {
      response.setHeader('link', `<${pulling.hub.url}/api/models/${REPO}/tree/${sha}>; rel="next"`)
      json(response, [])
    })
    await expectRefusal('hub-answer', 'without an end')
  })
})

describe('a listed path', () => {
  const paths = [
    '../config.json',
    'a/../../x.safetensors',
    '/etc/passwd',
    './x',
    'a//b',
    'a/',
    'a\\b',
    '..\\x',
    'C:x',
    'c:/x',
    'a\0b',
    'a\nb',
    '\ud800',
  ]
  it.each(paths.map((path) => [JSON.stringify(path), path]))('%s is refused wherever it stands', async (_, path) => {
    pulling.hub.listing = (entries) => [...entries, entryOf(path, FILES['config.json']!)]
    await expectRefusal('path-refused', REPO, 'leaves its folder')
    expect(await filesOf(pulling.folder)).toEqual([])
  })

  it.each<[string, string[], string]>([
    ['a device of Windows', ['CON.safetensors'], 'Windows'],
    ['a device in a folder', ['aux/w.safetensors'], 'Windows'],
    ['a name that ends in a dot', ['d./w.safetensors'], 'Windows'],
    ['a stream of NTFS', ['wx:y.safetensors'], 'Windows'],
    ['twice the same', ['w.safetensors', 'w.safetensors'], 'twice'],
    ['two that differ in case', ['w.safetensors', 'W.safetensors'], 'twice'],
    ['two that differ in normal form', ['\u00e9.safetensors', 'e\u0301.safetensors'], 'twice'],
    ['a file and a folder', ['w', 'w/x.safetensors'], 'below a name that is a file'],
    ['our own record', ['sidepath-pull.json'], 'a pull uses itself'],
    ['our own partial file', ['w.safetensors.partial'], 'a pull uses itself'],
    ['a long part', [`${'w'.repeat(129)}.safetensors`], 'longer than'],
  ])('%s is refused among the chosen', async (_, paths, words) => {
    pulling.hub.listing = () => paths.map((path) => entryOf(path, FILES['config.json']!))
    const error = await pulling.refusal({ include: ['*'] })
    expect([error.code, error.message]).toEqual(['path-refused', expect.stringContaining(words)])
  })
})

describe('a body', () => {
  it('of other bytes is refused, and nothing of it is kept', async () => {
    const wrong = new Uint8Array(WEIGHTS_BYTES)
    pulling.hub.intercept = (kind, request, response) => {
      const isFirst = kind === 'cdn' && request.url!.includes('00001')
      if (isFirst) response.writeHead(200, { 'content-length': wrong.length }).end(wrong)
      return isFirst
    }
    await expectRefusal('digest-mismatch', WEIGHTS, 'another digest')
    expect((await filesOf(pulling.folder)).some((path) => path.includes(WEIGHTS))).toBe(false)
  })

  it('of other bytes where only git knows the digest is refused too', async () => {
    const { length } = FILES['tokenizer.json']!
    pulling.hub.intercept = (kind, request, response) => {
      const is = kind === 'resolve' && request.url!.endsWith('tokenizer.json')
      if (is) response.writeHead(200, { 'content-length': length }).end('x'.repeat(length))
      return is
    }
    await expectRefusal('digest-mismatch', 'tokenizer.json', 'another digest')
  })

  it('without an end is cut at the listed size', async () => {
    pulling.hub.intercept = (kind, request, response) => {
      const isFirst = kind === 'cdn' && request.url!.includes('00001')
      const more = () => {
        if (!response.destroyed) response.write(new Uint8Array(65_536), more)
      }
      if (isFirst) more()
      return isFirst
    }
    await expectRefusal('digest-mismatch', 'more than')
    const left = await stat(join(`${pulling.out}.partial`, `${WEIGHTS}.partial`))
    expect(left.size).toBe(0)
  })

  it('that announces another size, or another part, is not read', async () => {
    answering('cdn', (response) => response.writeHead(200, { 'content-length': 5 }).end('12345'))
    await expectRefusal('digest-mismatch', 'other bytes than')
    const staging = `${pulling.out}.partial`
    await writeFile(join(staging, `${WEIGHTS}.partial`), FILES[WEIGHTS]!.subarray(0, 100))
    pulling.hub.intercept = (kind, request, response) => {
      if (kind === 'cdn' && request.headers.range !== undefined) {
        response.writeHead(206, { 'content-range': `bytes 50-${WEIGHTS_BYTES - 1}/${WEIGHTS_BYTES}` }).end()
        return true
      }
      return false
    }
    await expectRefusal('digest-mismatch', WEIGHTS, 'other bytes than')
  })

  it('that ends at once, each time, is given up', async () => {
    pulling.hub.intercept = (kind, request, response) => {
      const isFirst = kind === 'cdn' && request.url!.includes('00001')
      if (isFirst) response.writeHead(200).end()
      return isFirst
    }
    await expectRefusal('hub-unavailable', '0 of 300007 bytes')
  })

  it('that is a pointer of Git LFS and no weights is said to be one', async () => {
    const pointer = new TextEncoder().encode('version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n')
    pulling.hub.commits.set('a'.repeat(40), { 'model.safetensors': pointer })
    pulling.hub.listing = () => [
      { type: 'file', path: 'model.safetensors', size: pointer.length, oid: gitSha1(pointer) },
    ]
    await expectRefusal('digest-mismatch', 'Git LFS pointer')
  })
})

describe('what is asked for', () => {
  it.each([
    'hf:x',
    'hf:a/b/c',
    'acme/x',
    'hf:../x',
    'hf:a/..',
    'hf:a b/c',
    'hf:a/b@',
    'hf:a/b@../x',
    'hf:a/b@x y',
    'hf:a/b?c',
    'hf:a--b/c',
  ])('%s is no reference', async (reference) => {
    expect(await pulling.refusal({ reference })).toMatchObject({ code: 'reference-invalid' })
  })

  it.each(['http://example.com', 'ftp://127.0.0.1', 'https://u:p@example.com', 'https://example.com/?x', 'nonsense'])(
    '%s is no endpoint',
    async (endpoint) => {
      expect(await pulling.refusal({ endpoint })).toMatchObject({ code: 'endpoint-invalid' })
    },
  )

  it('nothing: a repository without safetensors says how to get its GGUF', async () => {
    pulling.hub.commits.set('a'.repeat(40), { 'x-Q4_K_M.gguf': FILES['tiny-Q4_K_M.gguf']! })
    await expectRefusal('nothing-selected', "--include '*Q4_K_M.gguf'")
    expect(await pulling.refusal({ include: ['*.onnx'] })).toMatchObject({ code: 'nothing-selected' })
    expect(await pulling.refusal({ include: Array(65).fill('*') })).toMatchObject({ code: 'pattern-invalid' })
  })

  it('of a Hub that is not there: the host and what happened, after its tries', async () => {
    const { code, message } = await pulling.refusal({ endpoint: 'http://127.0.0.1:9' })
    expect([code, message]).toEqual(['hub-unavailable', expect.stringContaining('127.0.0.1:9')])
    expect(pulling.waits).toHaveLength(4)
  })
})
