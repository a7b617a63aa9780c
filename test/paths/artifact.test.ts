// Artifacts of strangers, consistent in themselves, that reach out of their folder: refused by everybody who runs one.
import { createHash } from 'node:crypto'
import { mkdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { runVerification } from '../../cli/verification.ts'
import { canonicalJson } from '../../compiler/canonical-json.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { score } from '../../gpu-backend/score.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { openFolder } from '../../runtime/disk.ts'
import { openInProcess } from '../backend/in-process.ts'
import { type Compiled, compileToDisk, TINY } from '../compiler/folders.ts'
import { sidepath } from '../e2e/running.ts'

let artifact: Compiled
beforeEach(async () => {
  const adapters = [{ name: 'a', folder: openFolder(join(TINY, 'a')) }]
  artifact = await compileToDisk({ base: openFolder(join(TINY, 'base')), adapters, target: 'routed' })
})
afterEach(() => artifact[Symbol.asyncDispose]())

/** Replaces text of the same length in a file, and writes a manifest that agrees. */
async function edit(file: string, from: string, to: string): Promise<void> {
  expect(to.length).toBe(from.length)
  const path = join(artifact.path, file)
  const bytes = Buffer.from((await readFile(path)).toString('latin1').replaceAll(from, to), 'latin1')
  await writeFile(path, bytes)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  await writeManifest((manifest) => {
    manifest.files.find((entry) => entry.path === file)!.sha256 = sha256
  })
}

async function writeManifest(change: (manifest: Manifest) => void): Promise<void> {
  const path = join(artifact.path, 'manifest.json')
  const manifest = JSON.parse(await readFile(path, 'utf8')) as Manifest
  change(manifest)
  await writeFile(path, canonicalJson(manifest))
}

/** Moves a file or folder of the artifact out of it and leaves a link. */
async function linkOut(name: string): Promise<void> {
  const outside = join(artifact.path, '..', 'outside')
  await rename(join(artifact.path, name), outside)
  await symlink('../outside', join(artifact.path, name))
}

/** What the engine, `score` and a verification say; each must refuse. */
async function refusals(): Promise<string[]> {
  const { path } = artifact
  const [opened, scored, verified] = await Promise.all([
    refusal(() => openInProcess(path)),
    refusal(() => score({ artifact: path, input: { tokenIds: [1, 2] } })),
    runVerification({ artifact: path, scratch: tmpdir() }, false).then(({ problems }) => problems.join(), messageOf),
  ])
  return [opened, scored, verified]
}

async function refusal(run: () => Promise<unknown>): Promise<string> {
  return run().then(() => {
    throw new Error('the artifact was run')
  }, messageOf)
}

function messageOf(error: unknown): string {
  if (!(error instanceof Error)) throw error
  expect(['InputError', 'PathError', 'BackendError']).toContain(error.name)
  return error.message
}

describe('a backend and a command', () => {
  it('end with a sentence where an artifact reaches out, by its graph or by a link', async () => {
    const say = async (words: string) => {
      const { path } = artifact
      const served = await refusal(() => serve({ artifact: path, secret: 's'.repeat(32), port: 0, log: () => {} }))
      expect(served).toContain(words)
      for (const args of [
        ['verify', path],
        ['score', '--artifact', path, '--token-ids', '1,2'],
      ]) {
        const { code, stdout, stderr } = await sidepath(args)
        expect(code, stderr).toBe(1)
        expect(stdout + stderr).toContain(words)
        expect(stderr).not.toMatch(/\n\s+at /)
      }
    }
    await edit('engine.onnx', 'model.onnx_data', '../../etc/passw')
    await say('no plain path')
    await linkOut('model.onnx_data')
    await say('leaves the folder')
  })
})

describe('a graph whose weights lie', () => {
  it.each([
    ['in a folder above', '../../etc/passw', 'no plain path'],
    ['at an absolute path', '/etc/passwd/////', 'no plain path'],
    ['at a path of Windows', 'C:\\Windows\\x.bin', 'no plain path'],
    ['in a file that is not listed', 'other.onnx_data', 'does not list'],
  ])('%s is not run', async (_, location, words) => {
    await edit('engine.onnx', 'model.onnx_data', location.slice(0, 15).padEnd(15, 'x'))
    for (const message of await refusals()) expect(message).toContain(words)
  })

  it('in a manifest entry that is shorter than the graph reads is not run', async () => {
    const path = join(artifact.path, 'model.onnx_data')
    const bytes = (await readFile(path)).subarray(0, -64)
    await writeFile(path, bytes)
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    await writeManifest((manifest) => {
      Object.assign(manifest.files.find((entry) => entry.path === 'model.onnx_data')!, { bytes: bytes.length, sha256 })
    })
    for (const message of await refusals()) expect(message).toContain(`of its ${bytes.length}`)
  })
})

describe('a link out of an artifact', () => {
  it.each(['engine.onnx', 'model.onnx_data', 'manifest.json', 'adapters'])('as %s is not followed', async (name) => {
    await linkOut(name)
    for (const message of await refusals()) expect(message).toContain('leaves the folder')
  })

  it('as a tokenizer that the manifest does not list is not followed', async () => {
    const outside = join(artifact.path, '..', 'tokenizer.json')
    await writeFile(outside, '{}')
    await rm(join(artifact.path, 'tokenizer.json'), { force: true })
    await symlink('../tokenizer.json', join(artifact.path, 'tokenizer.json'))
    await expect(openInProcess(artifact.path)).rejects.toThrow('leaves the folder')
  })
})

describe('a manifest', () => {
  it.each(['../outside.bin', '/etc/passwd', 'a/../../b', './a', 'a\\b', 'C:x', ''])(
    'that lists %j is refused',
    async (path) => {
      await mkdir(join(artifact.path, 'a'))
      await writeManifest((manifest) => manifest.files.push({ path, bytes: 0, sha256: 'a'.repeat(64) }))
      for (const message of await refusals()) expect(message).toContain('no plain path')
    },
  )
})
