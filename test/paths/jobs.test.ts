// The compile service over a folder in which somebody has planted a link.
import { mkdtemp, readdir, readFile, rename, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { Artifacts } from '../../jobs/artifacts.ts'
import { openFolder } from '../../runtime/disk.ts'
import { compileToDisk, TINY } from '../compiler/folders.ts'

it('drops an artifact that links out of its folder, and leaves what the link led to', async () => {
  await using made = await compileToDisk({ base: openFolder(join(TINY, 'base')), adapters: [], target: 'merged' })
  const top = await mkdtemp(join(tmpdir(), 'sidepath-paths-'))
  try {
    const folder = join(top, 'artifacts')
    const named = new Set([made.id])
    const artifacts = await Artifacts.open(folder, new Set())
    await rename(made.path, join(top, 'staged'))
    await artifacts.commit(join(top, 'staged'), made.id)
    expect((await Artifacts.open(folder, named)).has(made.id)).toBe(true)

    const outside = join(top, 'outside')
    await rename(join(folder, made.id, 'model.onnx_data'), outside)
    const { length } = await readFile(outside)
    await symlink(outside, join(folder, made.id, 'model.onnx_data'))
    expect((await Artifacts.open(folder, named)).has(made.id)).toBe(false)
    expect(await readdir(folder)).toEqual([])
    expect((await readFile(outside)).length).toBe(length)
  } finally {
    await rm(top, { recursive: true, force: true })
  }
})
