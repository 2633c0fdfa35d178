// Titles and images through an ONNX export by transformers.js: node onnx_in_node.mjs EXPORT products.json
//
// products.json is a list of {"title", "image"}, the image a file; what is printed are their vectors, which equal those
// of this package. For that, the inputs are made here: transformers.js (4.3) cuts the end token off long titles, and
// shrinks images without smoothing them, which is not what Pillow does. examples/onnx_in_node.py calls this file.

import fs from 'node:fs';
import { AutoImageProcessor, AutoModel, AutoTokenizer, RawImage, Tensor, env } from '@huggingface/transformers';
import sharp from 'sharp';

/** Titles to inputs: cut to `longest` tokens, the end token kept, and padded. */
function prepareTitles(tokenizer, titles, longest, padding) {
  const rows = titles.map((title) => {
    const ids = tokenizer(title, { return_tensor: false }).input_ids;
    const last = tokenizer.all_special_ids.includes(ids.at(-1)) ? ids.at(-1) : ids[longest - 1];
    return ids.length > longest ? [...ids.slice(0, longest - 1), last] : ids;
  });
  const width = padding === 'max_length' ? longest : Math.max(...rows.map((ids) => ids.length));
  const tensor = (value) => {
    const left = tokenizer.padding_side === 'left';
    const values = rows.flatMap((ids) =>
      Array.from({ length: width }, (_, place) => BigInt(value(ids[left ? place - width + ids.length : place]))),
    );
    return new Tensor('int64', BigInt64Array.from(values), [rows.length, width]);
  };
  return { input_ids: tensor((id) => id ?? tokenizer.pad_token_id), attention_mask: tensor((id) => +(id !== undefined)) };
}

/** An image, upright and on white, in the size that the model takes, smoothed as Pillow does. */
async function loadImage(file, { size, resample }) {
  const { width, height } = (await sharp(file).metadata()).autoOrient;
  const scale = size.shortest_edge / Math.min(width, height);
  const target = size.shortest_edge
    ? { width: Math.floor(width * scale), height: Math.floor(height * scale) }
    : { width: size.width, height: size.height };
  const kernel = ['nearest', 'lanczos3', 'linear', 'cubic'][resample];
  const { data, info } = await sharp(file)
    .autoOrient()
    .flatten({ background: 'white' })
    .toColourspace('srgb')
    .resize({ ...target, fit: 'fill', kernel, fastShrinkOnLoad: false })
    .raw()
    .toBuffer({ resolveWithObject: true });
  return new RawImage(new Uint8ClampedArray(data), info.width, info.height, info.channels);
}

const [folder, file] = process.argv.slice(2);
const products = JSON.parse(fs.readFileSync(file));
const settings = JSON.parse(fs.readFileSync(`${folder}/processor_config.json`));
Object.assign(env, { allowRemoteModels: false, localModelPath: '' });
const model = await AutoModel.from_pretrained(folder, { subfolder: '', dtype: 'fp32' });
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const processor = await AutoImageProcessor.from_pretrained(folder);

const longest = Math.min(tokenizer.model_max_length, settings.max_title_length ?? 128);
const titles = prepareTitles(tokenizer, products.map((product) => product.title), longest, settings.title_padding);
const images = await Promise.all(products.map((product) => loadImage(product.image, processor)));
const { text_embeds, image_embeds } = await model({ ...titles, ...(await processor(images)) });
console.log(JSON.stringify({ text_embeds: text_embeds.tolist(), image_embeds: image_embeds.tolist() }));
