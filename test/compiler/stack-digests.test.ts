// A stack's files have the weights in them; the manifest still says which adapters they are.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import type { CompileInput } from '../../compiler/compile.ts'
import { compileAny } from '../../compiler/compile-any.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'

const ORACLE = join(import.meta.dirname, '..', 'parity', 'oracle')
const nowhere = { create: async () => ({ write: async () => {}, close: async () => {} }) }

describe.each([
  ['a decoder', join(ORACLE, 'tiny/base'), join(ORACLE, 'tiny/a')],
  ['an encoder', join(ORACLE, 'encoders/tiny/bert'), join(ORACLE, 'encoders/tiny/bert/adapters/narrow')],
])('the entry of an adapter of %s', (_, base, adapter) => {
  const entryOf = async (target: CompileInput['target'], weight: number) => {
    const adapters = [{ name: 'a', folder: openFolder(adapter), weight }]
    const { manifest } = await compileAny({ base: openFolder(base), adapters, target }, nowhere, nodeHost)
    return manifest.adapters[0]!
  }

  it('names the digest at weight 1 where it was stacked at another weight, and only there', async () => {
    const routed = await entryOf('routed', 1)
    const half = await entryOf('stacked', 0.5)
    expect(half.digest).not.toBe(routed.digest)
    expect(half.unweighted).toBe(routed.digest)
    expect(await entryOf('stacked', 1)).toEqual(routed)
    expect(await entryOf('merged', 0.5)).toMatchObject({ digest: routed.digest, weight: 0.5 })
    expect(await entryOf('merged', 0.5)).not.toHaveProperty('unweighted')
  })
})
