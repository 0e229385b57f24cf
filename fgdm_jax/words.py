"""English words for the classes of segmentation palettes: other names, kinds and plurals.

Nothing here depends on a palette: `fgdm_jax.vocabulary` finds the class that a word leads to. A
word is written in the singular; plurals follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping

SAME: tuple[str, ...] = (
    "person, people, human, human being, someone, somebody",
    "bicycle, bike, cycle, pushbike, push bike, pedal bike, minibike",
    "car, automobile, auto",
    "motorcycle, motorbike, motor bike, motor cycle",
    "airplane, aeroplane, plane, air plane, aircraft",
    "train, locomotive",
    "truck, lorry",
    "boat, vessel",
    "traffic light, stoplight, stop light, traffic signal, street signal",
    "fire hydrant, hydrant, fireplug, fire plug",
    "street sign, road sign, traffic sign",
    "signboard, sign",
    "sheep, lamb, ram, ewe",
    "cow, cattle, bull, ox, calf",
    "bear, cub",
    "backpack, back pack, rucksack, knapsack, book bag, bookbag",
    "umbrella, parasol",
    "eye glasses, eyeglasses, glasses, eye glass, spectacles, sunglasses, sun glasses, goggles",
    "handbag, hand bag, purse, pocketbook",
    "tie, necktie, neck tie, bow tie, bowtie",
    "suitcase, suit case, luggage, baggage",
    "frisbee, frizbee, flying disc, flying disk",
    "snowboard, snow board",
    "sports ball, ball, sphere, soccer ball, tennis ball, volley ball, basket ball, "
    "beach ball, rugby ball",
    "baseball bat, bat",
    "baseball glove, baseball mitt, catcher mitt, catchers mitt, mitt",
    "skateboard, skate board",
    "surfboard, surf board, boogie board, bodyboard, body board, paddle board, paddleboard",
    "tennis racket, tennis racquet, racket, racquet, tennis paddle",
    "wine glass, wineglass, glass of wine, glass of champagne, glass of red wine, "
    "glass of white wine, champagne glass, goblet",
    "cup, mug, teacup, tea cup, coffee cup, tumbler",
    "glass, drinking glass, glass of water, glass of milk, glass of juice, glass of beer, "
    "glass of orange juice, water glass, beer glass",
    "sandwich, hamburger, burger, cheeseburger, panini",
    "hot dog, hotdog, hot-dog, corn dog, corndog",
    "donut, doughnut, dough nut",
    "cake, cupcake, cup cake, cheesecake, cheese cake",
    "couch, sofa, settee, loveseat, love seat",
    "potted plant, house plant, houseplant, plant in a pot, pot plant",
    "dining table, dinner table, dining room table, kitchen table, diningtable",
    "tv, television, television set, tv set, television receiver, telly, tv screen, flat screen, "
    "flatscreen, flat screen tv, flat screen television, television screen",
    "laptop, lap top, laptop computer, notebook computer, macbook, mac book",
    "mouse, computer mouse",
    "remote, remote control, tv remote, remote controller, wii remote, wiimote, game controller",
    "keyboard, computer keyboard, key board",
    "cell phone, cellphone, mobile phone, mobile, smartphone, smart phone, phone, iphone, "
    "cellular phone, telephone",
    "microwave, microwave oven",
    "refrigerator, fridge, refridgerator, freezer",
    "clock, alarm clock, wall clock",
    "scissors, scissor, pair of scissors",
    "teddy bear, teddy, teddybear, bear teddy, stuffed bear, stuffed teddy bear, toy bear",
    "hair drier, hair dryer, hairdryer, hairdrier, blow dryer, blow drier",
    "toothbrush, tooth brush",
    "hair brush, hairbrush",
    "blanket, quilt, comforter, bedspread, duvet, bed spread",
    "bush, shrub, hedge",
    "carpet, carpeting, rug",
    "cabinet, cupboard",
    "skis, ski",
    "box, cube",
    "clothes, clothing, apparel, garment",
    "clouds, cloud",
    "counter, counter top, countertop",
    "curtain, drape, drapes, drapery",
    "dirt, soil",
    "earth, ground",
    "fence, fencing",
    "fog, mist, haze",
    "food, meal",
    "grass, lawn, turf",
    "house, cottage, cabin",
    "leaves, leaf, foliage",
    "light, light fixture, ceiling light, lighting",
    "lamp, table lamp, floor lamp, desk lamp",
    "napkin, serviette",
    "sidewalk, pavement, footpath, side walk",
    "playingfield, playing field, baseball field, soccer field, tennis court, football field, "
    "ball field, ballfield, ballpark, ball park, baseball diamond, basketball court, "
    "rugby field, sports field",
    "railing, rail, handrail, hand rail, guard rail, guardrail",
    "bannister, banister",
    "railroad, railway, train track, railroad track, railway track, rail track, tracks",
    "river, stream, creek, brook",
    "road, street, highway, roadway, freeway, motorway, asphalt, dirt road",
    "rock, boulder, stone",
    "roof, rooftop, roof top",
    "sand, sand dune, dune",
    "sea, ocean",
    "shelf, bookshelf, book shelf",
    "bookcase, book case",
    "skyscraper, sky scraper, high rise, highrise",
    "sky, skies",
    "snow, snowbank, snow bank",
    "stairs, stair, staircase, stair case, stairway, stairwell",
    "straw, hay",
    "towel, bath towel, hand towel",
    "vegetable, veggie, veg",
    "waterdrops, waterdrop, water drop, raindrop, rain drop",
    "window blind, blinds, venetian blind, window shade",
    "wardrobe, closet, armoire",
    "chest of drawers, drawer, dresser, bureau",
    "bathtub, bath tub, tub, bathing tub",
    "pool table, billiard table, snooker table",
    "swimming pool, pool",
    "arcade machine, slot machine",
    "streetlight, street light, street lamp, streetlamp, lamp post, lamppost",
    "washer, washing machine, clothes washer",
    "plaything, toy",
    "ashcan, trash can, garbage can, trash bin, garbage bin, dustbin, wastebasket, trashcan",
    "bulletin board, notice board",
    "poster, placard",
    "painting, picture frame, framed picture",
    "stove, cooker, stovetop, stove top, kitchen stove, gas stove",
    "path, trail, footway, pathway, walkway",
    "pier, dock, wharf, jetty",
    "cradle, crib",
    "sculpture, statue",
    "vegetation, greenery",
    "terrain, grassland",
    "hat, cap",
    "shoe, sneaker, boot",
    "necklace, pendant",
    "cloth, fabric",
    "eyebrow, brow",
    "crt screen, crt monitor",
)
"""Names of the same thing, the usual one first."""

KINDS: Mapping[str, str] = {
    "person": "man, woman, child, kid, boy, girl, guy, gal, lady, gentleman, baby, toddler, "
    "infant, adult, teen, teenager, youth, male, female, player, batter, pitcher, catcher, "
    "umpire, referee, skier, snowboarder, skateboarder, surfer, rider, cyclist, bicyclist, "
    "biker, motorcyclist, pedestrian, passenger, driver, worker, chef, waiter, waitress, "
    "policeman, policewoman, police officer, officer, fireman, firefighter, fire fighter, "
    "soldier, businessman, businesswoman, fisherman, farmer, cowboy, student, teacher, bride, "
    "groom, couple, crowd, family, father, mother, mom, dad, son, daughter, brother, sister, "
    "friend, tourist, spectator, athlete, runner, swimmer, skater, actor, dancer, singer, "
    "musician, doctor, nurse, hiker, jockey, king, queen, prince, princess, grandmother, "
    "grandfather, tennis player, ball player, baseball player, soccer player, football player, "
    "basketball player, skate boarder, snow boarder, young man, old man, little girl, little "
    "boy",
    "rider": "cyclist, bicyclist, motorcyclist, biker, horse rider",
    "car": "taxi, cab, sedan, suv, jeep, convertible, limousine, limo, van, minivan, hatchback, "
    "station wagon, race car, racecar, sports car, police car, taxi cab",
    "truck": "pickup, pick up truck, pickup truck, fire truck, firetruck, fire engine, dump truck, "
    "tow truck, garbage truck, food truck, semi truck, semi trailer, tractor trailer",
    "van": "minivan, camper van",
    "bus": "double decker, double decker bus, minibus, school bus, city bus, tour bus, trolley bus",
    "train": "tram, streetcar, street car, steam engine, subway train, bullet train, trolley",
    "motorcycle": "scooter, moped, dirt bike, dirtbike, harley",
    "bicycle": "tricycle, mountain bike, tandem",
    "airplane": "jet, airliner, air liner, jetliner, biplane, fighter jet, jumbo jet, sea plane, "
    "seaplane, air craft, passenger jet",
    "boat": "ship, sailboat, sail boat, sailing boat, canoe, kayak, ferry, yacht, rowboat, "
    "row boat, gondola, speedboat, speed boat, motorboat, tugboat, tug boat, fishing boat, barge, "
    "raft, dinghy, house boat, houseboat",
    "ship": "cruise ship, steamship, battleship",
    "animal": "bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, lion, tiger, "
    "monkey, deer, goat, pig, rabbit, fox, wolf, camel, donkey, squirrel, turtle, fish",
    "bird": "pigeon, seagull, sea gull, gull, duck, duckling, parrot, parakeet, owl, goose, swan, "
    "eagle, rooster, hen, crow, raven, sparrow, penguin, flamingo, peacock, pelican, hawk, falcon, "
    "heron, ostrich, robin, hummingbird, humming bird, finch, dove, vulture, stork",
    "cat": "kitten, kitty, tabby, tomcat, tabby cat, house cat",
    "dog": "puppy, pup, puppy dog, poodle, terrier, labrador, bulldog, bull dog, dachshund, corgi, "
    "pug, husky, beagle, chihuahua, collie, sheep dog, sheepdog, german shepherd, "
    "golden retriever, dalmatian, retriever, greyhound, spaniel, hound",
    "horse": "pony, foal, mare, stallion, colt, race horse, racehorse",
    "bear": "polar bear, grizzly bear, grizzly, brown bear, black bear, panda, panda bear",
    "elephant": "baby elephant, elephant calf",
    "suitcase": "briefcase, brief case",
    "handbag": "tote bag, shoulder bag, clutch bag",
    "bag": "handbag, backpack, plastic bag, paper bag, shopping bag, tote bag, duffel bag",
    "ball": "baseballs, footballs, basketballs, soccer ball, tennis ball, volleyball",
    "cup": "glass",
    "chair": "armchair, arm chair, stool, recliner, rocking chair, rocker, high chair, highchair, "
    "lawn chair, beach chair, folding chair, desk chair, office chair, swivel chair, wheel chair, "
    "wheelchair, bar stool, barstool, lounge chair, deck chair, dining chair",
    "armchair": "recliner, arm chair",
    "stool": "bar stool, barstool, foot stool, footstool",
    "bed": "bunk bed, mattress, crib, cot, king size bed, queen size bed",
    "bench": "park bench, pew",
    "table": "dining table, coffee table, side table, end table, picnic table, pool table, "
    "night stand, nightstand, bedside table, wooden table, tabletop, table top",
    "desk": "computer desk, office desk, work desk",
    "tv": "monitor, computer monitor, computer screen, screen",
    "monitor": "computer monitor, computer screen, desktop monitor",
    "computer": "laptop, desktop, desktop computer, personal computer",
    "oven": "stove, toaster oven, range oven",
    "sink": "kitchen sink, bathroom sink, washbasin, wash basin",
    "toilet": "urinal, commode, toilet bowl",
    "book": "textbook, novel, cookbook, notebook, text book",
    "clock": "clock face, grandfather clock",
    "bottle": "wine bottle, beer bottle, water bottle, bottle of wine, bottle of beer",
    "knife": "butter knife, steak knife",
    "bowl": "soup bowl, salad bowl, mixing bowl",
    "plate": "dish, saucer",
    "apple": "green apple, red apple",
    "orange": "tangerine, clementine, mandarin, orange slice",
    "pizza": "slice of pizza, pizza slice, pizza pie, pepperoni pizza, cheese pizza",
    "cake": "birthday cake, wedding cake, chocolate cake, carrot cake, piece of cake, layer cake",
    "fruit": "banana, apple, orange, lemon, lime, strawberry, berry, grape, pear, pineapple, "
    "melon, watermelon, peach, cherry, mango, kiwi, blueberry, raspberry",
    "vegetable": "broccoli, carrot, tomato, potato, onion, cucumber, cauliflower, pea, bean, "
    "lettuce, cabbage, pepper, celery, spinach, asparagus, mushroom, corn, zucchini, squash",
    "food": "fruit, vegetable, sandwich, hot dog, pizza, donut, cake, salad, soup, rice, pasta, "
    "noodle, bread, cheese, meat, french fry, fries, breakfast, lunch, dinner, dessert, cookie, "
    "steak, sushi, pastry, bagel, egg, noodles",
    "salad": "coleslaw",
    "flower": "rose, tulip, daisy, sunflower, lily, bouquet, blossom, orchid, daffodil",
    "plant": "potted plant, fern, cactus, ivy, shrub",
    "tree": "palm tree, palm, pine tree, pine, oak tree, oak, apple tree, christmas tree, "
    "fir tree, evergreen, birch tree, banana tree, orange tree, cherry tree, tree line, treeline",
    "vegetation": "tree, plant, bush, flower, hedge",
    "building": "house, skyscraper, tower, barn, church, castle, apartment building, cathedral, "
    "office building, shed, garage, warehouse, hut, temple",
    "tower": "lighthouse, light house, bell tower, water tower",
    "furniture": "chair, couch, bed, table, desk, cabinet, cupboard, shelf, wardrobe, bookcase, "
    "chest of drawers, bench, armchair, stool",
    "ground": "dirt, mud, gravel, sand, grass, pavement",
    "grass": "meadow, pasture",
    "field": "meadow, pasture, grassland, playingfield",
    "hill": "hillside, hill side, hilltop, slope",
    "mountain": "mountainside, mountain range, mountain top, mountaintop, peak, cliff, mount",
    "water": "sea, river, lake, pond, wave, waterfall, swimming pool, puddle, harbor, harbour, bay",
    "sea": "wave",
    "sand": "beach, shore, sandy beach, seashore, seaside, desert",
    "sky": "clouds",
    "snow": "snow field, snowfield, ski slope",
    "road": "intersection, crosswalk, parking lot, lane, avenue, alley",
    "railing": "bannister",
    "path": "sidewalk",
    "stone": "pebble, cobblestone",
    "stairs": "stairway, escalator, step",
    "rug": "area rug, throw rug",
    "mat": "placemat, place mat, door mat, doormat, yoga mat, bath mat",
    "pillow": "cushion, throw pillow",
    "cloth": "tablecloth, table cloth, cloths",
    "clothes": "shirt, jacket, dress, jeans, pants, t shirt, tshirt, coat, suit, skirt, sweater, "
    "shorts, uniform, trousers, hoodie, vest, wetsuit, wet suit",
    "hat": "baseball cap, cowboy hat, straw hat, helmet, beanie, top hat, sun hat",
    "light": "lamp, chandelier, light bulb, lightbulb, sconce, streetlight",
    "lamp": "lantern",
    "door": "doorway, door way, garage door, sliding door, glass door, screen door, front door",
    "window": "window pane, windowpane, window sill, windowsill, glass window",
    "fence": "wire fence, chain link fence, picket fence, metal fence, wooden fence",
    "traffic sign": "stop sign, sign",
    "cabinet": "kitchen cabinet, filing cabinet, medicine cabinet",
    "banner": "flag",
    "roof": "awning, canopy",
    "pole": "lamp pole, telephone pole, light pole, utility pole, flag pole, flagpole",
    "tent": "gazebo, marquee",
    "sculpture": "bust",
    "toy": "teddy bear, doll, stuffed animal, stuffed toy, lego",
    "paper": "newspaper, sheet of paper, piece of paper, news paper",
    "wood": "log, lumber, firewood, plank, log pile",
    "branch": "tree branch, tree limb, tree branches, twig",
    "skis": "pair of skis",
    "shelf": "bookcase",
    "platform": "train platform, station platform",
    "net": "tennis net",
    "bridge": "footbridge, overpass, foot bridge",
    "basket": "wicker basket, laundry basket",
    "box": "cardboard box, wooden box, pizza box, crate",
    "sign": "street sign, stop sign, billboard",
    "wall brick": "brickwork",
    "wall": "wallpaper",
}
"""Words for kinds of a thing: whoever draws the kind has drawn the thing."""

IRREGULAR: Mapping[str, str] = {
    "man": "men", "woman": "women", "child": "children", "person": "persons", "mouse": "mice",
    "knife": "knives", "leaf": "leaves", "shelf": "shelves", "bookshelf": "bookshelves",
    "wolf": "wolves", "calf": "calves", "loaf": "loaves", "goose": "geese", "ox": "oxen",
    "foot": "feet", "tooth": "teeth", "scarf": "scarves", "sheep": "sheep", "deer": "deer",
    "fish": "fish", "people": "people", "aircraft": "aircraft", "cattle": "cattle",
    "luggage": "luggage", "broccoli": "broccoli", "bus": "buses", "minibus": "minibuses",
    "cactus": "cacti", "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes",
    "family": "families", "sky": "skies",
    **{one: one[:-2] + "en" for one in (
        "policeman", "policewoman", "fireman", "businessman", "businesswoman", "fisherman",
        "gentleman",
    )},
}  # fmt: skip
"""Plurals that no rule makes."""
