// The compiler service takes encoders: what it gives is what `compile` gives.
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { compileEncoder } from '../../compiler/encoder/compile.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { ADAPTER_FILES, loadFiles, memoryOut } from '../compiler/folders.ts'
import { startService, type TestService } from '../jobs/service.ts'
import { tinyAdapter, tinyPath } from './encoders.ts'

let at: TestService
beforeAll(async () => {
  at = await startService()
})
afterAll(() => at.close())

it('a job on an encoder ends with the artifact that compile writes', async () => {
  const path = tinyPath('bert-classifier')
  const base = await at.uploadAll(await loadFiles(path, ['config.json', 'model.safetensors']))
  const files = await at.uploadAll(await loadFiles(join(path, 'adapters', 'wide'), ADAPTER_FILES))
  const answer = await at.submit({ target: 'routed', base, adapters: [{ name: 'wide', weight: 1, files }] })
  expect(answer.status).toBe(202)
  const job = await at.end((await answer.json()).id)
  const adapters = [tinyAdapter('bert-classifier', 'wide')]
  const direct = await compileEncoder({ base: openFolder(path), adapters, target: 'routed' }, memoryOut(), nodeHost)
  expect(job).toMatchObject({ state: 'done', artifact: direct.id, failure: null })
})
