// A recipe and its id: the SHA-256 of the one way to write it, so that asking twice is asking once.
import { createHash } from 'node:crypto'
import { canonicalJson, compareCodePoints } from '../compiler/canonical-json.ts'
import { Recipe } from './contract.ts'

/** Part of the digest: another meaning of the same fields would be another job. */
const RECIPE_SCHEMA = 'sidepath.recipe/1'

/** The order of adapters does not change an artifact, so it does not change the id. */
export function canonicalRecipe(recipe: Recipe): { id: string; recipe: Recipe } {
  const adapters = [...recipe.adapters].sort((a, b) => compareCodePoints(a.name, b.name))
  const text = canonicalJson({ ...recipe, adapters })
  const id = createHash('sha256').update(`${RECIPE_SCHEMA}\n${text}`).digest('hex')
  return { id, recipe: Recipe.parse(JSON.parse(text)) }
}

/** Every file of a recipe: what errors call it, and its digest. */
export function filesOf({ base, adapters }: Recipe): { name: string; digest: string }[] {
  const list = (folder: string, files: Readonly<Record<string, string>>) =>
    Object.entries(files).map(([file, digest]) => ({ name: `${folder}/${file}`, digest }))
  return [...list('base', base), ...adapters.flatMap(({ name, files }) => list(name, files))]
}
