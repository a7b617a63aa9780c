// Compiles the fixtures of the backend's tests, each once per run of a test file, into a folder that goes with it.
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const DEMO = join(ROOT, 'examples', 'demo')
const TINY = join(ROOT, 'test', 'parity', 'oracle', 'tiny')

export interface Artifact {
  readonly path: string
  readonly manifest: Manifest
  digest(adapter: string): string
}

export const demoFiles = { heldout: join(DEMO, 'heldout.jsonl') }
export const demoOracle = JSON.parse(readFileSync(join(ROOT, 'test/parity/oracle/demo.json'), 'utf8')) as {
  prompts: { text: string; ids: number[] }[]
  greedy: { continuations: Record<string, { ids: number[]; text: string }[]> }
  score: { text: string; ids: number[]; logprobs_of_ids_from_1: Record<string, number[]> }
  tokenizer: {
    strings: { text: string; ids: number[]; ids_with_special: number[]; decoded_skip_special: string }[]
    chat_template: {
      messages: { role: 'system' | 'user' | 'assistant'; content: string }[]
      add_generation_prompt: boolean
      ids: number[]
    }[]
  }
}

export function compileDemo(target: Manifest['target'] = 'routed', only?: string): Promise<Artifact> {
  const names = only === undefined ? ['triage', 'dates', 'clauses'] : [only]
  return compileFixture(
    join(DEMO, 'base'),
    names.map((name) => [name, join(DEMO, 'adapters', name)]),
    target,
  )
}

export function compileTiny(target: Manifest['target'] = 'routed'): Promise<Artifact> {
  const adapters: [string, string][] = [
    ['a', join(TINY, 'a')],
    ['b', join(TINY, 'b')],
  ]
  return compileFixture(join(TINY, 'base'), adapters, target)
}

async function compileFixture(
  base: string,
  adapters: readonly (readonly [string, string])[],
  target: Manifest['target'],
): Promise<Artifact> {
  const scratch = await mkdtemp(join(tmpdir(), 'sidepath-test-'))
  afterAll(() => rm(scratch, { recursive: true, force: true }))
  const path = join(scratch, 'artifact')
  const out = await stageFolder(path)
  const input = {
    base: openFolder(base),
    adapters: adapters.map(([name, at]) => ({ name, folder: openFolder(at) })),
    target,
  }
  const { manifest } = await compile(input, out, nodeHost)
  await out.commit()
  const digest = (name: string): string => manifest.adapters.find((adapter) => adapter.name === name)!.digest
  return { path, manifest, digest }
}
